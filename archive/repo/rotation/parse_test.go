package rotation_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tarvm/archive/repo/rotation"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":   "",
		"  ": "",
		"full=monthly, differential = weekly,incremental=daily , replace": "full=monthly,differential=weekly,incremental=daily,replace",
		"keep_daily=7,keep-within_daily=3d1m2w":                           "keep-daily=7,keep-within-daily=1m17d",
		"replace_after=3d,replace":                                        "replace=3d",
		"replace=true":                                                    "replace",
		"replace=false":                                                   "",
		"full=every 8,differential=every 12 entries":                      "full=every 8 entries,differential=every 12 entries",
		`keep-label=b=x\,y,keep-label=a,keep-last=-1`:                     `keep-last=all,keep-label=b=x\,y,keep-label=a`,
		"keep-label=k=":                                                   "keep-label=k=",
	} {
		p, err := rotation.Parse(text)
		if err != nil || p.String() != want {
			t.Errorf("%q: %q %v, want %q", text, p, err, want)
		}
	}
}

// Errors say what is allowed.
func TestParseErrors(t *testing.T) {
	const (
		period = `hourly, daily, weekly, monthly, yearly, "every N entries", always or never`
		span   = "a span such as 14d or 1y6m (y, m for months, w, d, h)"
		keys   = "full, differential, incremental, replace, replace-after, keep-last, keep-hourly, keep-daily, keep-weekly, keep-monthly, " +
			"keep-yearly, keep-within, keep-within-hourly, keep-within-daily, keep-within-weekly, keep-within-monthly, keep-within-yearly, keep-label"
	)
	for text, want := range map[string]string{
		"full=fortnightly":               "full=fortnightly: want " + period,
		"full=every 0 entries":           "full=every 0 entries: want " + period,
		"full=every 8 days":              "full=every 8 days: want " + period,
		"full=every 99999999999 entries": "full=every 99999999999 entries: want " + period,
		"full=":                          "full=: want a value",
		"full":                           `"full": want full=VALUE`,
		"incremental=every 8 entries":    "incremental=every 8 entries: want hourly, daily, weekly, monthly, yearly, always or never",
		"keep=7":                         `"keep": want one of ` + keys,
		"full=daily,":                    `"": want one of ` + keys,
		"keep-last=x":                    "keep-last=x: want a number, or all",
		"keep-last=-2":                   "keep-last=-2: want a number, or all",
		"keep-last=99999999999":          "keep-last=99999999999: want a number, or all",
		"keep-last=1,keep_last=2":        "keep-last=2: want it only once",
		"keep-label==x":                  "keep-label==x: want a label, KEY or KEY=VALUE",
		"keep-within=14":                 "keep-within=14: want " + span,
		"keep-within=1d1d":               "keep-within=1d1d: want " + span,
		"keep-within=d":                  "keep-within=d: want " + span,
		"keep-within=-1d":                "keep-within=-1d: want " + span,
		"keep-within=1M":                 "keep-within=1M: want " + span,
		"keep-within=100001y":            "keep-within=100001y: want " + span,
		"keep-within=0d":                 "keep-within=0d: want " + span,
		"replace=soon":                   "replace=soon: want nothing behind it, true, false, or a span such as 14d",
		"replace-after=1d":               "replace-after=1d: want replace as well",
		"replace=2d,replace-after=1d":    "replace-after=1d: want it only once",
	} {
		p, err := rotation.Parse(text)
		if se := new(rotation.SyntaxError); !errors.As(err, &se) || err.Error() != want || !reflect.DeepEqual(p, rotation.Policy{}) {
			t.Errorf("%q: %v (%v), want %s", text, err, p, want)
		}
	}
}

// What Check accepts can be written and read; what is read, written again.
func TestParseProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		q, err := rotation.Parse(p.String())
		if err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("%s: %s, %v", p, q, err)
		}
		text := rapid.StringOf(rapid.RuneFrom([]rune(`,=\ -_abdefhiklmnprtuwy0123456789`))).Draw(t, "text")
		p, err = rotation.Parse(p.String() + rapid.SampledFrom([]string{"", ",", ",keep-label=", ",full="}).Draw(t, "join") + text)
		if err == nil {
			if q, err := rotation.Parse(p.String()); err != nil || !reflect.DeepEqual(p, q) {
				t.Fatalf("%s: %s, %v", p, q, err)
			}
		} else if !errors.As(err, new(*rotation.SyntaxError)) {
			t.Fatal(err)
		}
	})
}

// Tables say the same as texts: each key of the text is that of a field, and each field can be read.
func TestTable(t *testing.T) {
	p := parse(t, "full=every 8 entries,differential=weekly,incremental=daily,replace=14d,keep-last=all,keep-daily=7,keep-within=1y6m,keep-label=a,keep-label=b=c")
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"full":"every 8 entries","differential":"weekly","incremental":"daily","replace":true,"replace_after":"14d","keep_last":"all",` +
		`"keep_daily":"7","keep_within":"1y6m","keep_label":["a","b=c"]}`
	if string(b) != want {
		t.Errorf("%s\nwant %s", b, want)
	}
	var q rotation.Policy
	if err := json.Unmarshal(b, &q); err != nil || !reflect.DeepEqual(p, q) {
		t.Errorf("%s, %v", q, err)
	}
	if err := json.Unmarshal([]byte(`{"keep_daily":"x"}`), &q); !errors.As(err, new(*rotation.SyntaxError)) {
		t.Error(err)
	}
	_, err = rotation.Parse("x=1")
	var se *rotation.SyntaxError
	if !errors.As(err, &se) {
		t.Fatal(err)
	}
	var tags []string
	var walk func(reflect.Type)
	walk = func(ty reflect.Type) {
		for i := range ty.NumField() {
			if f := ty.Field(i); f.Anonymous {
				walk(f.Type)
			} else {
				tag, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
				tags = append(tags, strings.ReplaceAll(tag, "_", "-"))
			}
		}
	}
	walk(reflect.TypeFor[rotation.Policy]())
	if got := "one of " + strings.Join(tags, ", "); got != se.Want {
		t.Errorf("fields are %s, keys %s", got, se.Want)
	}
}

// A policy that was made without Parse can say what no text does.
func TestCheck(t *testing.T) {
	for _, p := range []rotation.Policy{
		{Full: rotation.Period{Unit: 99}},
		{Full: rotation.Period{Unit: -1}},
		{Full: rotation.Period{Unit: rotation.Entries}},
		{Differential: rotation.Period{Unit: rotation.Day, N: 1}},
		{Incremental: rotation.Period{Unit: rotation.Entries, N: 1}},
		{ReplaceAfter: rotation.Span{Days: 1}},
		{Replace: true, ReplaceAfter: rotation.Span{Days: -1}},
		{Rules: rotation.Rules{Daily: -2}},
		{Rules: rotation.Rules{Within: rotation.Span{Years: 1 << 40}}},
		{Rules: rotation.Rules{Labels: []rotation.Label{{Value: "v"}}}},
		{Rules: rotation.Rules{Labels: []rotation.Label{{Key: "a=b", Any: true}}}},
	} {
		if err := p.Check(); !errors.As(err, new(*rotation.SyntaxError)) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

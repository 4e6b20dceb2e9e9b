package rotation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarvm/archive/repo/rotation"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Skip(err)
	}
	return z
}

// at makes full entries of times, numbered from 1.
func at(t *testing.T, z *time.Location, times ...string) []rotation.Item {
	t.Helper()
	var items []rotation.Item
	for i, s := range times {
		layout := "2006-01-02 15:04"
		if len(s) > len(layout) {
			layout += " -0700"
		}
		tm, err := time.ParseInLocation(layout, s, z)
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, rotation.Item{Number: i + 1, Time: tm, Kind: rotation.Full})
	}
	return items
}

// show writes what is kept, the newest first: "#3 last 1; daily 2026-11-20 | #1 ...".
func show(vs []rotation.Verdict) string {
	var s []string
	for _, v := range vs {
		if v.Keep != (len(v.Reasons) > 0) {
			s = append(s, fmt.Sprintf("%+v", v))
		}
		if v.Keep {
			s = append(s, fmt.Sprintf("#%d %s", v.Number, strings.Join(v.Reasons, "; ")))
		}
	}
	return strings.Join(s, " | ")
}

func parse(t *testing.T, text string) rotation.Policy {
	t.Helper()
	p, err := rotation.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestKeep(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	sundays := []string{
		"2019-09-01 11:00", "2019-09-08 11:00", "2019-09-15 11:00", "2019-09-22 11:00", "2019-09-29 11:00", "2019-10-06 11:00",
		"2019-10-13 11:00", "2019-10-20 11:00", "2019-10-27 11:00", "2019-11-03 11:00", "2019-11-10 11:00", "2019-11-17 11:00",
	}
	for _, c := range []struct {
		name  string
		rules string
		zone  *time.Location
		times []string
		want  string
	}{
		{"no rule", "", time.UTC, sundays[:2], "#2 no rule | #1 no rule"},
		{"days without entries do not count", "keep-daily=4", time.UTC, sundays,
			"#12 daily 2019-11-17 | #11 daily 2019-11-10 | #10 daily 2019-11-03 | #9 daily 2019-10-27"},
		{"the last of a period", "keep-monthly=2", time.UTC, sundays, "#12 monthly 2019-11 | #9 monthly 2019-10"},
		{"more periods than there are", "keep-monthly=4", time.UTC, sundays,
			"#12 monthly 2019-11 | #9 monthly 2019-10 | #5 monthly 2019-09 | #1 oldest monthly 2019-09"},
		{"all", "keep-yearly=all,keep-last=1", time.UTC, sundays, "#12 last 1; yearly 2019 | #1 oldest yearly 2019"},
		{"the oldest is the last of its own", "keep-yearly=3", time.UTC, []string{"2018-01-01 00:00", "2019-01-01 00:00"},
			"#2 yearly 2019 | #1 yearly 2018"},
		{"last", "keep-last=2", time.UTC, sundays, "#12 last 1 | #11 last 2"},
		{"more than there are", "keep-last=9", time.UTC, sundays[:1], "#1 last 1"},
		{"rules are one by one", "keep-last=1,keep-weekly=2,keep-within=8d", time.UTC, sundays[9:],
			"#3 last 1; within 8d; weekly 2019-W46 | #2 within 8d; weekly 2019-W45"},
		{"weeks are of ISO years", "keep-weekly=2", time.UTC,
			[]string{"2026-12-27 23:59", "2026-12-28 00:00", "2026-12-31 12:00", "2027-01-03 23:59", "2027-01-04 00:00"},
			"#5 weekly 2027-W01 | #4 weekly 2026-W53"},
		{"a leap day", "keep-daily=2,keep-within-monthly=1m", time.UTC, []string{"2028-01-31 01:00", "2028-02-28 01:00", "2028-02-29 01:00", "2028-03-01 01:00"},
			"#4 daily 2028-03-01; monthly 2028-03 within 1m | #3 daily 2028-02-29; monthly 2028-02 within 1m"},
		{"a month before the end of March", "keep-within=1m", time.UTC,
			[]string{"2027-02-28 11:59", "2027-02-28 12:00", "2027-03-02 12:00", "2027-03-31 12:00"},
			"#4 within 1m | #3 within 1m | #2 within 1m"},
		{"a year before a leap day", "keep-within=1y1h", time.UTC,
			[]string{"2027-02-28 10:59", "2027-02-28 11:00", "2028-02-29 12:00"}, "#3 within 1y1h | #2 within 1y1h"},
		{"midnight is the zone's", "keep-daily=2", berlin, []string{"2026-07-01 21:59 +0000", "2026-07-01 22:00 +0000", "2026-07-02 21:00 +0000"},
			"#3 daily 2026-07-02 | #1 daily 2026-07-01"},
		{"midnight is UTC's", "keep-daily=2", time.UTC, []string{"2026-07-01 21:59 +0000", "2026-07-01 22:00 +0000", "2026-07-02 21:00 +0000"},
			"#3 daily 2026-07-02 | #2 daily 2026-07-01"},
		{"an hour that is there twice", "keep-hourly=4", berlin,
			[]string{"2026-10-25 01:59 +0200", "2026-10-25 02:30 +0200", "2026-10-25 02:30 +0100", "2026-10-25 03:00 +0100"},
			"#4 hourly 2026-10-25 03h +0100 | #3 hourly 2026-10-25 02h +0100 | #2 hourly 2026-10-25 02h +0200 | #1 hourly 2026-10-25 01h +0200"},
		{"an hour that is not there", "keep-hourly=2,keep-within=2h", berlin, []string{"2026-03-29 01:30 +0100", "2026-03-29 03:00 +0200", "2026-03-29 03:30 +0200"},
			"#3 within 2h; hourly 2026-03-29 03h +0200 | #2 within 2h | #1 within 2h; hourly 2026-03-29 01h +0100"},
		{"a day of 25 hours", "keep-within=1d", berlin, []string{"2026-10-24 11:59 +0200", "2026-10-24 12:00 +0200", "2026-10-25 12:00 +0100"},
			"#3 within 1d | #2 within 1d"},
		{"equal times are by number", "keep-last=2", time.UTC, []string{"2026-01-01 00:00", "2026-01-01 00:00", "2026-01-01 00:00"}, "#3 last 1 | #2 last 2"},
		{"a clock set back", "keep-last=1", time.UTC, []string{"2026-01-02 00:00", "2026-01-03 00:00", "2016-01-01 00:00"}, "#2 last 1 | #3 saved last"},
		{"the future", "keep-last=1,keep-daily=1", time.UTC, []string{"2025-12-31 00:00", "2026-01-01 00:00", "2038-01-01 00:00", "2026-01-02 00:00"},
			"#3 from the future | #4 last 1; daily 2026-01-02"},
		{"a clock that is wrong now", "keep-last=1", time.UTC, []string{"2036-01-02 00:00", "2036-01-03 00:00"}, "#2 from the future | #1 from the future"},
		{"the newest stays", "keep-label=release", time.UTC, sundays, "#12 newest"},
		{"within a day", "keep-within-daily=2d,keep-within-weekly=14d", time.UTC,
			[]string{"2026-11-01 01:00", "2026-11-08 01:00", "2026-11-17 01:00", "2026-11-18 00:30", "2026-11-18 12:00", "2026-11-18 18:00", "2026-11-20 12:00"},
			"#7 daily 2026-11-20 within 2d; weekly 2026-W47 within 14d | #6 daily 2026-11-18 within 2d | #2 weekly 2026-W45 within 14d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := parse(t, c.rules)
			items := at(t, c.zone, c.times...)
			now := time.Date(2029, 1, 1, 0, 0, 0, 0, c.zone)
			if got := show(forest(t, items).Keep(p.Rules, now)); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

func TestKeepLabels(t *testing.T) {
	items := at(t, time.UTC, "2026-01-01 00:00", "2026-01-02 00:00", "2026-01-03 00:00", "2026-01-04 00:00")
	items[0].Labels = map[string]string{"release": "1", "for": "a, b"}
	items[1].Labels = map[string]string{"release": ""}
	p := parse(t, `keep-label=release=1,keep-label=for=a\, b`)
	if got, want := show(forest(t, items).Keep(p.Rules, epoch)), "#4 newest | #1 label release=1; label for=a, b"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	p = parse(t, "keep-label=release")
	if got, want := show(forest(t, items).Keep(p.Rules, epoch)), "#4 newest | #2 label release | #1 label release"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	p = parse(t, "keep-label=release=")
	if got, want := show(forest(t, items).Keep(p.Rules, epoch)), "#4 newest | #2 label release="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Rules count by group, and not what cannot be built.
func TestKeepGroups(t *testing.T) {
	items := []rotation.Item{item(1, 0, 1), item(2, 0, 2), item(3, 0, 3), item(4, 0, 4), item(5, rotation.Absent, 5), item(6, 0, 6)}
	items[0].Project, items[1].Project = "b", "b"
	items[5].Machine = "other"
	p := parse(t, "keep-last=1")
	vs := forest(t, items).Keep(p.Rules, epoch.AddDate(1, 0, 0))
	if got, want := show(vs), "#5 cannot be built | #4 last 1 | #6 last 1 | #2 last 1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := rotation.Forgotten(vs); !slices.Equal(got, []int{3, 1}) {
		t.Error(got)
	}
	if vs := forest(t, nil).Keep(p.Rules, epoch); len(vs) != 0 {
		t.Error(vs)
	}
}

// Each rule of periods, against its definition: an entry is kept that has none younger in its period and fewer than N
// periods with entries behind that.
func TestKeepProperty(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	key := map[string]func(time.Time) string{
		"hourly":  func(t time.Time) string { return t.Format("2006-01-02 15 -07") },
		"daily":   func(t time.Time) string { return t.Format("2006-01-02") },
		"weekly":  func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprint(y, w) },
		"monthly": func(t time.Time) string { return t.Format("2006-01") },
		"yearly":  func(t time.Time) string { return t.Format("2006") },
	}
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(rt, "n")
		step := rapid.SampledFrom([]int{1, 30, 400, 5000, 90000}).Draw(rt, "step")
		start := time.Date(2026, 10, 24, 22, 0, 0, 0, time.UTC)
		var items []rotation.Item
		for i := range n {
			it := item(i+1, 0, 1)
			it.Time = start.Add(time.Duration(rapid.IntRange(0, n*step).Draw(rt, "minute")) * time.Minute)
			items = append(items, it)
		}
		unit := rapid.SampledFrom([]string{"hourly", "daily", "weekly", "monthly", "yearly"}).Draw(rt, "unit")
		count := rapid.IntRange(1, 12).Draw(rt, "count")
		p := parse(t, fmt.Sprintf("keep-%s=%d", unit, count))
		vs := forest(rt, items).Keep(p.Rules, start.AddDate(20, 0, 0).In(berlin))
		for _, v := range vs {
			it := items[v.Number-1]
			k := key[unit](it.Time.In(berlin))
			younger := make(map[string]bool)
			oldest, youngest := true, true
			for _, o := range items {
				switch o.Time.Compare(it.Time) {
				case -1:
					oldest = false
					continue
				case 0:
					if o.Number <= it.Number {
						oldest = oldest && o.Number == it.Number
						continue
					}
				}
				youngest = false
				younger[key[unit](o.Time.In(berlin))] = true
			}
			want := !younger[k] && len(younger) < count || oldest && len(younger) < count || youngest || it.Number == n
			if v.Keep != want {
				rt.Fatalf("%+v, want %v", v, want)
			}
		}
	})
}

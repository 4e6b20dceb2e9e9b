package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"tarvm/delta"
)

func drawPath(t *rapid.T) Path {
	return Path(rapid.OneOf(
		rapid.StringMatching(`[a-z "\\<>&\x01\x{2028}é]{1,12}`),
		rapid.SampledFrom([]string{"bad\xff\xfeutf", "nl\nname", "tab\t", "\x7f", "日本"}),
	).Draw(t, "path"))
}

func drawMember(t *rapid.T, path Path) Member {
	m := Member{State: State{
		Path: path, Type: rapid.SampledFrom([]Type{File, Dir, Symlink, Fifo}).Draw(t, "type"),
		Mode: Mode(rapid.Uint32Range(0, 0o7777).Draw(t, "mode")),
		UID:  rapid.Int64Range(0, math.MaxUint32).Draw(t, "uid"), GID: rapid.Int64Range(0, 5).Draw(t, "gid"),
		User: rapid.SampledFrom([]string{"", "root", "jürgen", "\xff"}).Draw(t, "user"), Group: "",
	}}
	m.ModTime = Time{time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "sec"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).UTC()}
	if rapid.Bool().Draw(t, "xattrs") {
		m.Xattrs = map[string][]byte{"user.b": {0, 255}, "user.a": []byte("x")}
	}
	switch m.Type {
	case Symlink:
		m.Target = drawPath(t)
	case File:
		m.Size = rapid.Int64Range(0, delta.DefaultBlock).Draw(t, "size")
		m.Digest = delta.Sum([]byte(path))
		m.Role = rapid.SampledFrom([]Role{RoleDisk, RoleOther}).Draw(t, "role")
		m.Stored = Stored{As: AsWhole, Body: 512, Bytes: m.Size}
	}
	return m
}

func drawSnapshot(t *rapid.T) *Snapshot {
	s := &Snapshot{Entry: Entry{
		Tarvm: "entry", Version: Version, Kind: Full, Name: "vm <&>", Labels: map[string]string{"k": "v"},
		Time: Time{time.Unix(1700000000, 5).UTC()}, Block: delta.DefaultBlock, Digest: DigestName, Codec: "zstd",
	}}
	seen := make(map[Path]bool)
	for range rapid.IntRange(0, 200).Draw(t, "n") {
		p := drawPath(t)
		if !seen[p] {
			seen[p] = true
			s.Members = append(s.Members, drawMember(t, p))
		}
	}
	return s
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		var b bytes.Buffer
		if err := s.Encode(&b); err != nil {
			t.Fatal(err)
		}
		if !json.Valid(b.Bytes()) {
			t.Fatalf("no JSON: %s", b.Bytes())
		}
		got, err := Decode(b.Bytes())
		if err != nil {
			t.Fatalf("%v\n%s", err, b.Bytes())
		}
		if len(got.Members) == 0 {
			got.Members = s.Members
		}
		if !reflect.DeepEqual(got, s) {
			t.Fatalf("got  %+v\nwant %+v", got, s)
		}
		var again bytes.Buffer
		if err := got.Encode(&again); err != nil || !bytes.Equal(again.Bytes(), b.Bytes()) {
			t.Fatalf("%v\n%s\n%s", err, again.Bytes(), b.Bytes())
		}
	})
}

func encode(t *testing.T, s *Snapshot) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sample() *Snapshot {
	digest := delta.Sum([]byte("x"))
	return &Snapshot{
		Entry: Entry{Tarvm: "entry", Version: 1, Kind: Incremental, Parent: &Parent{ID: digest, Digest: digest}, Block: 65536, Digest: DigestName, Codec: "none"},
		Members: []Member{
			{State: State{Path: ".", Type: Dir, Mode: 0o755}},
			{State: State{Path: "disk", Type: File, Size: 1 << 20, Mode: 0o600, Digest: digest}, Hints: Hints{Role: RoleDisk, Length: 100, Blocks: 2},
				Stored: Stored{As: AsDelta, Bytes: 5, Segments: []Segment{{Start: 0, End: 4096, Body: 2048, Head: 512, Data: 5, Digest: digest}}}},
			{State: State{Path: "disk2", Type: Link, Target: "disk"}},
			{State: State{Path: "small", Type: File, Size: 3, Digest: digest}, Stored: Stored{As: AsSame}},
		},
		Blocks: BlocksInfo{Length: 100},
	}
}

// The id is about the state alone.
func TestID(t *testing.T) {
	a := sample()
	id := ComputeID(a.Entry.Block, a.Members)
	b := sample()
	b.Members[1].Stored = Stored{As: AsWhole, Body: 99}
	b.Members[1].Hints = Hints{}
	if ComputeID(b.Entry.Block, b.Members) != id {
		t.Error("storage or hints change the id")
	}
	for name, change := range map[string]func(s *State){
		"mode": func(s *State) { s.Mode++ }, "time": func(s *State) { s.ModTime.Time = s.ModTime.Add(1) }, "size": func(s *State) { s.Size++ },
		"digest": func(s *State) { s.Digest[5]++ }, "owner": func(s *State) { s.UID++ }, "path": func(s *State) { s.Path += "x" },
		"phase": func(s *State) { s.Phase++ }, "stride": func(s *State) { s.Stride = 100_000 }, "xattr": func(s *State) { s.Xattrs = map[string][]byte{"user.a": nil} },
	} {
		c := sample()
		change(&c.Members[1].State)
		if ComputeID(c.Entry.Block, c.Members) == id {
			t.Errorf("%s does not change the id", name)
		}
	}
	if ComputeID(4096, a.Members) == id {
		t.Error("the block size does not change the id")
	}
}

// The canonical encoding is written down in FORMAT.md; others compute ids from it.
func TestStateEncoding(t *testing.T) {
	for _, c := range []struct {
		s    State
		want string
	}{
		{State{Path: "a\"\\\x01é", Type: File, Size: 7, Mode: 0o4755, UID: 1, GID: 2, User: "u", Group: "g", ModTime: Time{time.Unix(0, 5e8)}, Phase: 512,
			Xattrs: map[string][]byte{"user.z": {1}, "user.a": {}}, Digest: delta.Digest{31: 1}},
			`{"path":"a\"\\\u0001é","type":"file","size":7,"mode":"4755","uid":1,"gid":2,"user":"u","group":"g","mtime":"1970-01-01T00:00:00.5Z","xattrs":{"user.a":"","user.z":"AQ=="},"phase":512,"digest":"` + strings.Repeat("0", 63) + `1"}`},
		{State{Path: "\xff", Type: Symlink, Target: "t", ModTime: Time{time.Unix(1<<38, 1)}},
			`{"path":{"base64":"/w=="},"type":"symlink","mode":"0000","uid":0,"gid":0,"mtime":"` + "10680-11-05" + `","target":"t"}`},
	} {
		got := string(c.s.AppendState(nil))
		if c.s.Type == Symlink {
			c.want = strings.Replace(c.want, "10680-11-05", "274877906944.000000001", 1)
		}
		if got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestDecodeHostile(t *testing.T) {
	good := string(encode(t, sample()))
	if _, err := Decode([]byte(good)); err != nil {
		t.Fatal(err)
	}
	replace := func(old, with string) func() string {
		return func() string {
			if !strings.Contains(good, old) {
				t.Errorf("the sample has no %q", old)
			}
			return strings.Replace(good, old, with, 1)
		}
	}
	built := func(change func(*Snapshot)) func() string {
		return func() string {
			s := sample()
			change(s)
			return string(encode(t, s))
		}
	}
	for name, c := range map[string]struct {
		text func() string
		want error
	}{
		"later version":      {replace(`"manifest","version":1`, `"manifest","version":2`), ErrVersion},
		"later entry":        {replace(`"entry","version":1`, `"entry","version":9`), ErrVersion},
		"unknown feature":    {built(func(s *Snapshot) { s.Entry.Requires = []string{"x"} }), ErrVersion},
		"other kind of file": {replace(`"tarvm":"manifest"`, `"tarvm":"other"`), ErrCorrupt},
		"a changed member":   {replace(`"size":1048576`, `"size":1048577`), ErrCorrupt},
		"not canonical":      {replace(`"type":"dir"`, `"type": "dir"`), ErrCorrupt},
		"twice":              {built(func(s *Snapshot) { s.Members[3].Path = "disk" }), ErrCorrupt},
		"link to nothing":    {built(func(s *Snapshot) { s.Members[2].Target = "small" }), ErrCorrupt},
		"unknown type":       {built(func(s *Snapshot) { s.Members[0].Type = "device" }), ErrCorrupt},
		"negative size":      {built(func(s *Snapshot) { s.Members[3].Size = -1 }), ErrCorrupt},
		"section too long":   {built(func(s *Snapshot) { s.Blocks.Length = 50 }), ErrCorrupt},
		"section elsewhere":  {built(func(s *Snapshot) { s.Members[1].Offset = 7 }), ErrCorrupt},
		"too many digests":   {built(func(s *Snapshot) { s.Members[1].Blocks = 17 }), ErrCorrupt},
		"phase":              {built(func(s *Snapshot) { s.Members[1].Phase = 65536 }), ErrCorrupt},
		"stride":             {built(func(s *Snapshot) { s.Members[1].Stride = 131072 }), ErrCorrupt},
		"short stride":       {built(func(s *Snapshot) { s.Members[1].Stride = 512 }), ErrCorrupt},
		"segments overlap":   {built(func(s *Snapshot) { g := s.Members[1].Stored.Segments; s.Members[1].Stored.Segments = append(g, g[0]) }), ErrCorrupt},
		"segment past end":   {built(func(s *Snapshot) { s.Members[1].Stored.Segments[0].End = 1 << 30 }), ErrCorrupt},
		"no segment":         {built(func(s *Snapshot) { s.Members[1].Stored.Segments = nil }), ErrCorrupt},
		"delta in a full":    {built(func(s *Snapshot) { s.Entry.Kind, s.Entry.Parent = Full, nil }), ErrCorrupt},
		"orphan increment":   {built(func(s *Snapshot) { s.Entry.Parent = nil }), ErrCorrupt},
		"block size":         {built(func(s *Snapshot) { s.Entry.Block = 1000 }), ErrCorrupt},
		"content of a dir":   {built(func(s *Snapshot) { s.Members[0].Stored.As = AsWhole }), ErrCorrupt},
		"empty":              {func() string { return "" }, ErrCorrupt},
		"no comma":           {replace("},\n{", "}\n{"), ErrCorrupt},
		"a comma too many":   {replace("}\n]", "},\n]"), ErrCorrupt},
		"an empty line":      {replace("},\n{", "},\n\n{"), ErrCorrupt},
		"an empty first":     {replace("[\n{", "[\n\n{"), ErrCorrupt},
		"something behind":   {func() string { return good + "\n" }, ErrCorrupt},
	} {
		if s, err := Decode([]byte(c.text())); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v, want %v", name, s, err, c.want)
		}
	}
	for n := range len(good) {
		if _, err := Decode([]byte(good[:n])); err == nil {
			t.Fatalf("cut at %d of %d: no error", n, len(good))
		}
	}
}

// A manifest longer than what is decoded at once, whatever its header says of its length, and errors of what is read.
func TestRead(t *testing.T) {
	s := &Snapshot{Entry: sample().Entry}
	s.Entry.Kind, s.Entry.Parent = Full, nil
	for i := range 3 * batchText / 200 {
		s.Members = append(s.Members, Member{State: State{Path: Path(fmt.Sprint("dir/", i, strings.Repeat("x", i%300))), Type: Fifo, Mode: 0o644}})
	}
	for _, n := range []int64{0, -1, 1, 7000, int64(len(s.Members)), 1 << 62} {
		s.Stats.Members = n
		text := encode(t, s)
		got, err := Read(iotest.OneByteReader(bytes.NewReader(text)))
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Fatalf("%d members said: %v", n, err)
		}
		if c := cap(got.Members); c > 2*len(s.Members) {
			t.Errorf("%d members said: room for %d, there are %d", n, c, len(s.Members))
		}
		for _, at := range []int{0, 1, 1000, len(text) / 2, len(text) - 1, len(text)} {
			if _, err := Read(io.MultiReader(bytes.NewReader(text[:at]), iotest.ErrReader(syscall.EIO))); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrCorrupt) {
				t.Errorf("EIO at byte %d of %d: %v", at, len(text), err)
			}
		}
		at := bytes.Index(text, []byte(`"dir/9001x`))
		line := 1 + bytes.Count(text[:at], []byte("\n"))
		if _, err := Read(bytes.NewReader(append(bytes.Clone(text[:at]), text[at+1:]...))); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), fmt.Sprintf("line %d:", line)) {
			t.Errorf("damage in line %d: %v", line, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	var b bytes.Buffer
	if err := sample().Encode(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := Decode(in)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Fatalf("error without its class: %v", err)
			}
			return
		}
		id := s.ID
		var out bytes.Buffer
		if err := s.Encode(&out); err != nil {
			t.Fatal(err)
		}
		if s.ID != id {
			t.Fatalf("id %s became %s", id, s.ID)
		}
		if again, err := Decode(out.Bytes()); err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("%v: %+v is not %+v", err, again, s)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	s := &Snapshot{Entry: sample().Entry}
	s.Entry.Kind, s.Entry.Parent = Full, nil
	for i := range 10000 {
		p := Path("dir/file" + time.Duration(i).String())
		s.Members = append(s.Members, Member{State: State{Path: p, Type: File, Size: 10, Mode: 0o644, User: "root", Group: "root", Digest: delta.Sum([]byte(p))}, Stored: Stored{As: AsWhole, Body: 512, Bytes: 10}})
	}
	var buf bytes.Buffer
	if err := s.Encode(&buf); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(buf.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(buf.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
}

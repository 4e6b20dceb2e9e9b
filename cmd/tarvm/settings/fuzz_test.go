package settings

import (
	"runtime"
	"strings"
	"testing"
)

// Whatever the text is, reading it ends, and changes of it make just those changes: in places, or by writing it anew.
func FuzzChange(f *testing.F) {
	if runtime.GOOS == "windows" {
		f.Skip("paths of Unix")
	}
	seeds := []string{
		"", "a=", "areas={}", "areas.a.dir='/a'", "[areas]\na={dir='/a'}", "[areas.a]\ndir='''\n/a'''", "\ufeff#\n[policies.p]\nx=[\n'',{y=\"\"\"\\\"\"\"\"}]#",
		"[areas]\na.dir='/a'\n[areas.b]\ndir='/b'\n", "repositories = {}", "[repositories]#\n'r' = '/r'", "project\t=\"x\"\r\n[policies.'a.b'.c]\n",
		"# x\n\n# y\n[[policies.p.q]]\n[areas.\"b\"]\ndir = \"~/b\" # z\nproject = 'p'\n\n[catalogues]\nc = 'https://x/'", "\xfe\xff",
	}
	read := 0
	for _, s := range seeds {
		f.Add(s)
		if _, err := decode("x.toml", s); err == nil {
			read++
		}
	}
	if read < 10 {
		f.Fatalf("only %d seeds can be read", read)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := decode("x.toml", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "x.toml:") {
				t.Fatal(err)
			}
			return
		}
		areas, repos, policies, comments := len(s.Areas), len(s.Repositories), len(s.Policies()), strings.Count(text, "#")
		for _, name := range s.names(Area)[:min(areas, 1)] {
			if err := s.RemoveArea(name); err != nil {
				t.Fatal(err)
			}
			areas, comments = areas-1, 0 // those within it
		}
		const dir = "/fuzz-\"'\\"
		if err := s.AddArea("fuzzed", WorkingArea{Dir: dir}); err != nil {
			return // it is there, or within a repository
		}
		if err := s.SetDefault(Project, "fuzzed"); err != nil {
			t.Fatal(err)
		}
		next, small, after, err := s.apply(text)
		if err != nil {
			if strings.Contains(err.Error(), "edit it by hand") {
				return
			}
			t.Fatalf("%v in %q", err, next)
		}
		if len(after.Areas) != areas+1 || len(after.Repositories) != repos || len(after.Policies()) != policies ||
			after.Areas["fuzzed"].Dir != dir || after.Project != "fuzzed" || small && strings.Count(next, "#") < comments {
			t.Fatalf("%+v in %q", after, next)
		}
	})
}

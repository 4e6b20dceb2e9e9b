package settings_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"tarvm/archive/repo"
	"tarvm/cmd/tarvm/settings"
)

// TestMain is, when it is told so, a process that adds areas.
func TestMain(m *testing.M) {
	if prefix := os.Getenv("TEST_ADD_AREAS"); prefix != "" {
		if err := addAreas(prefix); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const areasEach = 10

// addAreas adds areas to the file of the environment, each as one change.
func addAreas(prefix string) error {
	path, err := settings.Path()
	if err != nil {
		return err
	}
	for i := range areasEach {
		s, err := settings.Load(path)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%s%d", prefix, i)
		if err := s.AddArea(name, settings.WorkingArea{Dir: "/vm/" + name}); err != nil {
			return err
		}
		if _, err := s.Save(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// home gives the test a home of its own and returns the path of its settings, which are not there yet.
func home(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("AppData", dir)
	t.Setenv("USERPROFILE", dir)
	for _, v := range []string{"XDG_CONFIG_HOME", "XDG_STATE_HOME", settings.EnvConfig, settings.EnvArea, settings.EnvRepository, settings.EnvProject} {
		t.Setenv(v, "")
	}
	path, err := settings.Path()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func load(t testing.TB, path string) *settings.Settings {
	t.Helper()
	s, err := settings.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func save(t testing.TB, s *settings.Settings) {
	t.Helper()
	notices, err := s.Save(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(notices) > 0 {
		t.Errorf("notices %q", notices)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unix skips a test whose file names are not Windows'.
func unix(t testing.TB) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("paths of Unix")
	}
}

// example is the file of the package's comment.
const example = `# Mine.
repository = "home"
area = "work"  # the usual one
project = "thesis"
policy = "office"
trust_times = true

[repositories]
# On the big disk.
home = "~/vm-entries"

# Where I work.
[areas.work]
dir = "/vm/work"
project = "paper"
repository = "home"

[policies.office]
daily = 7
keep = ["a", "b"]

[catalogues]
cernvm = "https://example.org/images.json"
local = "~/images.json"
`

func TestLoad(t *testing.T) {
	unix(t)
	path := home(t)
	write(t, path, example)
	s := load(t, path)
	dir := os.Getenv("HOME")
	if s.Repository != "home" || s.Area != "work" || s.Project != "thesis" || s.Policy != "office" || !s.TrustTimes {
		t.Errorf("%+v", s)
	}
	if got := s.Repositories["home"]; got != dir+"/vm-entries" {
		t.Errorf("repository %s", got)
	}
	if got := s.Areas["work"]; got != (settings.WorkingArea{Dir: "/vm/work", Project: "paper", Repository: "home"}) {
		t.Errorf("area %+v", got)
	}
	if got := s.Catalogues; got["cernvm"] != "https://example.org/images.json" || got["local"] != dir+"/images.json" {
		t.Errorf("catalogues %v", got)
	}
	var p struct {
		Daily int      `toml:"daily"`
		Keep  []string `toml:"keep"`
	}
	must(t, s.DecodePolicy("office", &p))
	if p.Daily != 7 || !slices.Equal(p.Keep, []string{"a", "b"}) {
		t.Errorf("policy %+v", p)
	}
	var narrow struct {
		Dayly int      `toml:"dayly"`
		Keep  []string `toml:"keep"`
	}
	err := load(t, path).DecodePolicy("office", &narrow)
	if want := path + ":19: policies.office.daily: is not a setting of policies (did you mean dayly?)"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	var other struct {
		Daily string   `toml:"daily"`
		Keep  []string `toml:"keep"`
	}
	var e *settings.Error
	if err := load(t, path).DecodePolicy("office", &other); !errors.As(err, &e) || e.Path != path || e.Line == 0 {
		t.Errorf("%v, want an *Error with a line", err)
	}
	var u *settings.UnknownError
	if err := s.DecodePolicy("offices", &p); !errors.As(err, &u) || !strings.Contains(err.Error(), "did you mean office?") {
		t.Errorf("%v", err)
	}
}

func TestLoadNothing(t *testing.T) {
	for _, path := range []string{home(t), os.DevNull} {
		s := load(t, path)
		if s.Area != "" || len(s.Areas) != 0 || len(s.Policies()) != 0 {
			t.Errorf("%s: %+v", path, s)
		}
	}
}

// Each error names the file, the line, and what is wrong there.
func TestLoadErrors(t *testing.T) {
	unix(t)
	path := home(t)
	for _, c := range []struct{ text, want string }{
		{"area = \"a\"\nrepositry = \"b\"\n", `:2: repositry: is not a setting (did you mean repository?)`},
		{"Area = \"a\"\n", `:1: Area: is not a setting (did you mean area?)`},
		{"\n\ncolour = 1\n", `:3: colour: is not a setting`},
		{"[areas.work]\ndir = \"/vm\"\n\nprojct = \"x\"\n", `:4: areas.work.projct: is not a setting (did you mean project?)`},
		{"areas = { work = { dri = \"/vm\" } }\n", `:1: areas.work.dri: is not a setting (did you mean dir?)`},
		{"[areas.work]\ndir = 7\n", `:2: areas.work.dir: is to be a string`},
		{"areas = 7\n", `:1: areas: is to be a table`},
		{"[[areas]]\ndir = \"/vm\"\n", `:1: areas: is to be a table`},
		{"[areas]\nwork = \"/vm\"\n", `:2: areas.work: is to be a table`},
		{"trust_times = \"yes\"\n", `:1: trust_times: is to be true or false`},
		{"[repositories]\n\nhome = [\"/a\"]\n", `:3: repositories.home: is to be a string`},
		{"[areas.work]\ndir = \"vm\"\n", `:2: areas.work.dir: "vm" is neither absolute nor begins with ~/`},
		{"[areas.work]\ndir = \"$HOME/vm\"\n", `:2: areas.work.dir: "$HOME/vm" is neither absolute nor begins with ~/`},
		{"[areas.work]\ndir = \"~root/vm\"\n", `:2: areas.work.dir: "~root/vm" is neither absolute nor begins with ~/`},
		{"[areas.work]\nproject = \"x\"\n", `:1: areas.work.dir: is empty`},
		{"[areas.work]\ndir = \"/vm\"\nproject = \"a/b\"\n", `:3: areas.work.project: project "a/b": '/' is no character of a name: letters, digits, _, - and . are`},
		{"[areas.work]\ndir = \"/vm\"\nrepository = \"hone\"\n[repositories]\nhome = \"/r\"", `:3: areas.work.repository: no repository is called "hone" (did you mean home?)`},
		{"[areas.12]\ndir = \"/vm\"\n", `:1: areas.12: area "12": only digits would be taken for the number of an entry`},
		{"[repositories]\n\"a b\" = \"/vm\"\n", `:2: repositories."a b": repository "a b": ' ' is no character of a name: letters, digits, _, - and . are`},
		{"area = \"-x\"\n", `:1: area: area "-x": would be taken for a flag`},
		{"[catalogues]\nx = \"images.json\"\n", `:2: catalogues.x: "images.json" is neither absolute nor begins with ~/`},
		{"[policies]\nx = 1\n", `:2: policies.x: is to be a table`},
		{"area = \"a\"\narea = \"b\"\n", `:2: area: `},
		{"area = \"a\n", `:1: area: `},
		{"[areas\n", `:2: `},
		{"\narea = \"\xff\"\n", `:2: is not UTF-8 text`},
		{"\xfe\xff", `:1: is not UTF-8 text`},
		{"a\n\x00", `:2: is not UTF-8 text`},
	} {
		write(t, path, c.text)
		_, err := settings.Load(path)
		var e *settings.Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), path+c.want) {
			t.Errorf("%q:\n got %v\nwant %s", c.text, err, c.want)
		}
	}
	write(t, path, strings.Repeat("# 34567890\n", 100_000))
	if _, err := settings.Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("large file: %v", err)
	}
	if _, err := settings.Load(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a directory: %v", err)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"work", "a", "2024-x", "thesis.v2", "_", "日本", "Москва-1", "naïve", "हिन्दी", strings.Repeat("x", 64), "1.0"} {
		if err := settings.CheckName(settings.Area, name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{
		"", "1", "007", "٣", "-x", ".", "..", "a/b", `a\b`, "a b", "a\n", "a\x00", "a\x1b[1m", "#1", "a@b", "a=b", "\xff", strings.Repeat("x", 65), "a\u202eb",
	} {
		var e *settings.NameError
		if err := settings.CheckName(settings.Area, name); !errors.As(err, &e) || e.Name != name {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// What is a project's name in a repository can be said, too.
func TestProjectNames(t *testing.T) {
	for _, name := range []string{"web server", "Größe 2 b", strings.Repeat("x", 100)} {
		if err := settings.CheckName(settings.Project, name); err != nil {
			t.Error(err)
		}
		if err := repo.CheckProject(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{" a", "a ", " ", "a\tb", "a\u00a0b", "7", strings.Repeat("x", 101)} {
		if err := settings.CheckName(settings.Project, name); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
}

func TestMakeName(t *testing.T) {
	for text, want := range map[string]string{
		"web": "web", "web one": "web-one", "a/b": "a-b", "": "x", "7": "x", "...": "x", "-rf": "rf", " é!": "é", "\xff\xff": "x", "日本 1": "日本-1",
		strings.Repeat("é", 50): strings.Repeat("é", 32), "a\u202eb\n": "a-b",
	} {
		if got := settings.MakeName(settings.Area, text, "x"); got != want || settings.CheckName(settings.Area, got) != nil {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A change touches its own lines and no others.
func TestChange(t *testing.T) {
	unix(t)
	area := func(name, dir string) func(*settings.Settings) error {
		return func(s *settings.Settings) error { return s.AddArea(name, settings.WorkingArea{Dir: dir}) }
	}
	repo := func(name, dir string) func(*settings.Settings) error {
		return func(s *settings.Settings) error { return s.AddRepository(name, dir) }
	}
	def := func(k settings.Kind, name string) func(*settings.Settings) error {
		return func(s *settings.Settings) error { return s.SetDefault(k, name) }
	}
	rmArea := func(name string) func(*settings.Settings) error {
		return func(s *settings.Settings) error { return s.RemoveArea(name) }
	}
	rmRepo := func(name string) func(*settings.Settings) error {
		return func(s *settings.Settings) error { return s.RemoveRepository(name) }
	}
	for _, c := range []struct {
		name, text, want string
		do               func(*settings.Settings) error
	}{
		{"first area", "", "[areas.work]\ndir = \"/vm\"\n", area("work", "/vm")},
		{"first repository", "", "[repositories]\nhome = \"/r\"\n", repo("home", "/r")},
		{"first default", "", "project = \"x\"\n", def(settings.Project, "x")},
		{"only comments", "# mine", "# mine\n\n[areas.work]\ndir = \"/vm\"\n", area("work", "/vm")},
		{
			"a table after its like", "[areas.a] # a\ndir = \"/a\" # here\n\n# more\n[catalogues]\n",
			"[areas.a] # a\ndir = \"/a\" # here\n\n[areas.b]\ndir = \"/b\"\n\n# more\n[catalogues]\n", area("b", "/b"),
		},
		{
			"a key after its like", "[repositories]\n  a = \"/a\" # first\n  # last\n\n[areas.x]\ndir = \"/x\"",
			"[repositories]\n  a = \"/a\" # first\n  b = \"/b\"\n  # last\n\n[areas.x]\ndir = \"/x\"", repo("b", "/b"),
		},
		{"an empty table", "[repositories]\n\n# x\n", "[repositories]\nb = \"/b\"\n\n# x\n", repo("b", "/b")},
		{"no newline at the end", "[repositories]\na = \"/a\"", "[repositories]\na = \"/a\"\nb = \"/b\"\n", repo("b", "/b")},
		{"Windows' newlines", "[repositories]\r\na = \"/a\"\r\n", "[repositories]\r\na = \"/a\"\r\nb = \"/b\"\r\n", repo("b", "/b")},
		{"a byte order mark", "\ufeff[repositories]\na = \"/a\"\n", "\ufeffproject = \"x\"\n\n[repositories]\na = \"/a\"\n", def(settings.Project, "x")},
		{"dotted keys", "repositories.a = \"/a\" # a\narea = \"x\"\n", "repositories.a = \"/a\" # a\nrepositories.b = \"/b\"\narea = \"x\"\n", repo("b", "/b")},
		{
			"a default in place", "# a\nproject  =  'x'  # was y\narea = \"q\"\n",
			"# a\nproject  =  \"z\"  # was y\narea = \"q\"\n", def(settings.Project, "z"),
		},
		{
			"a default before the tables", "# mine\n\n# these\n[repositories]\na = \"/a\"\n",
			"# mine\n\nrepository = \"a\"\n\n# these\n[repositories]\na = \"/a\"\n", def(settings.Repository, "a"),
		},
		{"a default after others", "area = \"x\" # y\n\n[repositories]\na = \"/a\"\n", "area = \"x\" # y\nrepository = \"a\"\n\n[repositories]\na = \"/a\"\n", def(settings.Repository, "a")},
		{"no default", "# p\nproject = \"x\"\narea = \"q\"\n", "# p\narea = \"q\"\n", def(settings.Project, "")},
		{
			"an area goes, and as the default", "area = \"b\"\nproject = \"p\"\n\n[areas.a]\ndir = \"/a\"\n\n# this\n[areas.b]\ndir = \"/b\"\n# in it\nproject = \"x\"\n\n[areas.c]\ndir = \"/c\"\n",
			"project = \"p\"\n\n[areas.a]\ndir = \"/a\"\n\n# this\n\n[areas.c]\ndir = \"/c\"\n", rmArea("b"),
		},
		{"the last one goes", "[areas.a]\ndir = \"/a\"\n", "", rmArea("a")},
		{"a repository goes", "[repositories]\na = \"/a\"\nb = \"/b\" # b\nc = \"/c\"\n", "[repositories]\na = \"/a\"\nc = \"/c\"\n", rmRepo("b")},
		{"a name that is quoted", "", "[areas.\"日本.1\"]\ndir = \"/vm\"\n", area("日本.1", "/vm")},
		{"it goes", "[ areas . '日本.1' ]\ndir = \"/vm\"\n", "", rmArea("日本.1")},
		{"a directory with everything", "", "[areas.x]\ndir = \"/a \\\"b\\\" 'c' \\\\ \\u000a\\u0009tab\\u007f é\"\n", area("x", "/a \"b\" 'c' \\ \n\ttab\x7f é")},
		{"a backslash", "", "[areas.x]\ndir = '/a\\b'\n", area("x", `/a\b`)},
		{
			"strings and brackets that look like statements",
			"[policies.p]\nx = \"\"\"\n[repositories]\n\"\"\"\"\"\ny = [ # [areas\n  '''\n[areas.b]''', \"#\\\"\", {z = ']'},\n] # end\n\n[repositories]\na = '/a#b' # x\n",
			"[policies.p]\nx = \"\"\"\n[repositories]\n\"\"\"\"\"\ny = [ # [areas\n  '''\n[areas.b]''', \"#\\\"\", {z = ']'},\n] # end\n\n[repositories]\na = '/a#b' # x\nb = \"/b\"\n", repo("b", "/b"),
		},
		{"home", "", "[areas.x]\ndir = \"" + "HOME/x\"\n", area("x", "~/x")},
		{"a catalogue", "[catalogues]\na = \"/a\"\n", "[catalogues]\na = \"/a\"\nb = \"https://example.org/?x\"\n", func(s *settings.Settings) error { return s.AddCatalogue("b", "https://example.org/?x") }},
		{"the same catalogue", "[catalogues]\na = \"~/a\"\n", "[catalogues]\na = \"~/a\"\n", func(s *settings.Settings) error { return s.AddCatalogue("a", os.Getenv("HOME")+"/a") }},
		{"a catalogue goes", "[catalogues]\na = \"/a\"\nb = \"/b\"\n", "[catalogues]\nb = \"/b\"\n", func(s *settings.Settings) error { return s.RemoveCatalogue("a") }},
		{"the same again", "[areas.x]\ndir = '/x'\n", "[areas.x]\ndir = '/x'\n", area("x", "/x")},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := home(t)
			write(t, path, c.text)
			s := load(t, path)
			must(t, c.do(s))
			save(t, s)
			want := strings.ReplaceAll(c.want, "HOME", os.Getenv("HOME"))
			if got := read(t, path); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			load(t, path)
		})
	}
}

func TestAddOptions(t *testing.T) {
	unix(t)
	path := home(t)
	s := load(t, path)
	must(t, s.AddRepository("r", "/r"))
	must(t, s.AddArea("w", settings.WorkingArea{Dir: "/w", Project: "p", Repository: "r"}))
	must(t, s.SetDefault(settings.Area, "w"))
	must(t, s.SetDefault(settings.Repository, "r"))
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before it is saved: %v", err)
	}
	save(t, s)
	if got, want := read(t, path), `repository = "r"
area = "w"

[repositories]
r = "/r"

[areas.w]
dir = "/w"
project = "p"
repository = "r"
`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, d := range []string{".", "sub/dir"} {
		abs, err := filepath.Abs(d)
		must(t, err)
		must(t, s.AddArea("rel", settings.WorkingArea{Dir: d}))
		if got := s.Areas["rel"].Dir; got != abs {
			t.Errorf("%s became %s", d, got)
		}
		must(t, s.RemoveArea("rel"))
	}
	if len(s.Areas) != 1 {
		t.Errorf("%v", s.Areas)
	}
	save(t, s)
}

func TestRefused(t *testing.T) {
	unix(t)
	path := home(t)
	write(t, path, example)
	s := load(t, path)
	r := os.Getenv("HOME") + "/vm-entries"
	for _, c := range []struct {
		err  error
		as   any
		want string
	}{
		{s.AddArea("work", settings.WorkingArea{Dir: "/x"}), new(*settings.ExistsError), "area work is /vm/work already"},
		{s.AddArea("twin", settings.WorkingArea{Dir: "/vm/work/"}), new(*settings.ExistsError), "area work is /vm/work already"},
		{s.AddArea("in", settings.WorkingArea{Dir: r + "/x"}), new(*settings.OverlapError), "must not hold one another"},
		{s.AddArea("around", settings.WorkingArea{Dir: os.Getenv("HOME")}), new(*settings.OverlapError), "must not hold one another"},
		{s.AddArea("x", settings.WorkingArea{Dir: "/x", Repository: "hom"}), new(*settings.UnknownError), "did you mean home?"},
		{s.AddArea("x", settings.WorkingArea{Dir: "/x", Project: "7"}), new(*settings.NameError), "number of an entry"},
		{s.AddArea("7", settings.WorkingArea{Dir: "/x"}), new(*settings.NameError), "number of an entry"},
		{s.AddArea("x", settings.WorkingArea{Dir: "/\xff"}), nil, "is not UTF-8"},
		{s.AddArea("x", settings.WorkingArea{}), nil, "no directory is named"},
		{s.AddRepository("home", "/x"), new(*settings.ExistsError), "repository home is ~/vm-entries already"},
		{s.AddRepository("twin", r), new(*settings.ExistsError), "repository home is ~/vm-entries already"},
		{s.AddRepository("x", "/vm"), new(*settings.OverlapError), "must not hold one another"},
		{s.RemoveArea("wrok"), new(*settings.UnknownError), "did you mean work?"},
		{s.RemoveRepository("x"), new(*settings.UnknownError), `no repository is called "x"`},
		{s.RemoveRepository("home"), new(*settings.InUseError), "repository home is that of area work"},
		{s.SetDefault(settings.Area, "x"), new(*settings.UnknownError), `no area is called "x"`},
		{s.SetDefault(settings.Repository, "x"), new(*settings.UnknownError), `no repository is called "x"`},
		{s.SetDefault("colour", "x"), nil, "there is no default colour"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) || c.as != nil && !errors.As(c.err, c.as) {
			t.Errorf("%v (%T), want %s", c.err, c.err, c.want)
		}
	}
	must(t, s.AddArea("beside", settings.WorkingArea{Dir: r + "2"}))
	must(t, s.AddArea("dots", settings.WorkingArea{Dir: os.Getenv("HOME") + "/..x"}))
	save(t, load(t, path))
	if got := read(t, path); got != example {
		t.Errorf("changed:\n%s", got)
	}
}

// Text that cannot be changed in places is written anew, and kept.
func TestRewrite(t *testing.T) {
	unix(t)
	path := home(t)
	text := "# mine\nareas = { a = { dir = \"/a\" } }\n[policies.p]\nn = 1\nt = 2024-05-06T07:08:09Z\nl = [1, [2.5, {x = true}]]\n"
	write(t, path, text)
	must(t, os.Chmod(path, 0o600))
	write(t, path+".bak", "another")
	s := load(t, path)
	must(t, s.AddArea("b", settings.WorkingArea{Dir: "/b"}))
	notices, err := s.Save(t.Context())
	must(t, err)
	if len(notices) != 1 || !strings.Contains(notices[0], path+".bak1") {
		t.Errorf("notices %q", notices)
	}
	if got := read(t, path+".bak1"); got != text {
		t.Errorf("kept\n%s", got)
	}
	if got := read(t, path+".bak"); got != "another" {
		t.Errorf("another's: %s", got)
	}
	s = load(t, path)
	if len(s.Areas) != 2 || s.Areas["a"].Dir != "/a" || s.Areas["b"].Dir != "/b" || !slices.Equal(s.Policies(), []string{"p"}) {
		t.Errorf("%+v\n%s", s, read(t, path))
	}
	for _, p := range []string{path, path + ".bak1"} {
		if st, err := os.Stat(p); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", p, st.Mode(), err)
		}
	}
}

// The file keeps its permissions, and a link stays one; nothing is left beside it.
func TestSaveInPlace(t *testing.T) {
	unix(t)
	path := home(t)
	dots := filepath.Join(os.Getenv("HOME"), "dotfiles")
	file := filepath.Join(dots, "tarvm.toml")
	must(t, os.MkdirAll(dots, 0o755))
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.Symlink("../../dotfiles/link", path))
	must(t, os.Symlink("tarvm.toml", filepath.Join(dots, "link")))
	for i, mode := range []fs.FileMode{0, 0o600, 0o644, 0o664} {
		if mode != 0 { // at first, the links lead nowhere
			must(t, os.Chmod(file, mode))
		}
		// What a process that was killed left goes.
		must(t, os.WriteFile(filepath.Join(dots, ".tarvm.toml.tarvm-0123abcd"), nil, 0o600))
		s := load(t, path)
		must(t, s.AddArea(fmt.Sprintf("a%d", i), settings.WorkingArea{Dir: fmt.Sprintf("/vm/%d", i)}))
		save(t, s)
		if to, err := os.Readlink(path); err != nil || to != "../../dotfiles/link" {
			t.Fatalf("%s %v", to, err)
		}
		st, err := os.Lstat(file)
		must(t, err)
		if mode != 0 && st.Mode() != mode {
			t.Errorf("mode %v, was %v", st.Mode(), mode)
		}
		for dir, want := range map[string]int{dots: 2, filepath.Dir(path): 1} {
			if list, err := os.ReadDir(dir); err != nil || len(list) != want {
				t.Errorf("%s: %v %v", dir, list, err)
			}
		}
	}
	if s := load(t, file); len(s.Areas) != 4 {
		t.Errorf("%v", s.Areas)
	}
	must(t, os.Remove(filepath.Join(dots, "link")))
	must(t, os.Symlink("link", filepath.Join(dots, "link")))
	s := &settings.Settings{Path: path}
	must(t, s.AddArea("x", settings.WorkingArea{Dir: "/x"}))
	if _, err := s.Save(t.Context()); err == nil || !strings.Contains(err.Error(), "too many symbolic links") {
		t.Errorf("a loop: %v", err)
	}
}

// What cannot be written stays as it was.
func TestSaveFails(t *testing.T) {
	unix(t)
	path := home(t)
	write(t, path, example)
	add := func(path string) error {
		s := load(t, path)
		must(t, s.AddArea("x", settings.WorkingArea{Dir: "/x"}))
		_, err := s.Save(t.Context())
		return err
	}
	check := func(what string, err error, want error) {
		t.Helper()
		if !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
		if got := read(t, path); got != example {
			t.Errorf("%s: changed\n%s", what, got)
		}
		if list, err := os.ReadDir(filepath.Dir(path)); err != nil || len(list) != 1 {
			t.Errorf("%s: %v %v", what, list, err)
		}
	}
	if os.Geteuid() != 0 { // who may write anything
		must(t, os.Chmod(path, 0o444))
		check("a file that is read only", add(path), fs.ErrPermission)
		must(t, os.Chmod(path, 0o644))
		must(t, os.Chmod(filepath.Dir(path), 0o555))
		check("a directory that is read only", add(path), fs.ErrPermission)
		must(t, os.Chmod(filepath.Dir(path), 0o755))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := load(t, path)
	must(t, s.AddArea("x", settings.WorkingArea{Dir: "/x"}))
	if _, err := s.Save(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// Another process wrote what is not TOML, or took the name, after this one read the file.
	write(t, path, "area =")
	var e *settings.Error
	if _, err := s.Save(t.Context()); !errors.As(err, &e) || e.Line != 1 {
		t.Errorf("%v", err)
	}
	write(t, path, "[areas.x]\ndir = '/y'\n")
	if _, err := s.Save(t.Context()); !errors.As(err, new(*settings.ExistsError)) {
		t.Errorf("%v", err)
	}
	if got := read(t, path); got != "[areas.x]\ndir = '/y'\n" {
		t.Errorf("changed:\n%s", got)
	}
	if err := add(os.DevNull); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("%s: %v", os.DevNull, err)
	}
}

// Processes that add areas at a time lose none of each other's.
func TestSaveTogether(t *testing.T) {
	path := home(t)
	write(t, path, "# mine\n\n[catalogues] # end\n")
	exe, err := os.Executable()
	must(t, err)
	var wg sync.WaitGroup
	prefixes := []string{"a", "b", "c"}
	for _, p := range prefixes {
		wg.Go(func() {
			cmd := exec.Command(exe)
			cmd.Env = append(os.Environ(), "TEST_ADD_AREAS="+p)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	if n := len(load(t, path).Areas); n != len(prefixes)*areasEach {
		t.Errorf("%d areas", n)
	}
	if text := read(t, path); !strings.HasPrefix(text, "# mine\n\n[catalogues] # end\n") {
		t.Errorf("got\n%s", text)
	}
}

func TestSelect(t *testing.T) {
	unix(t)
	path := home(t)
	empty := load(t, path)
	if sel, err := empty.Select(settings.Given{}); err != nil || sel != (settings.Selection{}) {
		t.Errorf("%+v %v", sel, err)
	}
	write(t, path, example+"\n[areas.play]\ndir = \"/vm/play\"\n")
	s := load(t, path)
	must(t, s.AddRepository("usb", "/usb"))
	r := os.Getenv("HOME") + "/vm-entries"
	at := func(line int) string { return fmt.Sprintf("%s:%d", path, line) }
	var (
		home   = settings.Choice{Name: "home", Dir: r, From: at(2)}
		office = settings.Choice{Name: "office", From: at(5)}
	)
	for _, c := range []struct {
		name  string
		given settings.Given
		env   string
		want  settings.Selection
	}{
		{"the file, its area first", settings.Given{}, "", settings.Selection{
			Repository: settings.Choice{Name: "home", Dir: r, From: at(16)}, Area: settings.Choice{Name: "work", Dir: "/vm/work", From: at(3)},
			Project: settings.Choice{Name: "paper", From: at(15)}, Policy: office,
		}},
		{"a flag", settings.Given{Area: "play", Policy: "other"}, "", settings.Selection{
			Repository: home, Area: settings.Choice{Name: "play", Dir: "/vm/play", From: "--area"},
			Project: settings.Choice{Name: "thesis", From: at(4)}, Policy: settings.Choice{Name: "other", From: "--policy"},
		}},
		{"the environment", settings.Given{}, "TARVM_AREA=play TARVM_REPO=usb TARVM_PROJECT=q", settings.Selection{
			Repository: settings.Choice{Name: "usb", Dir: "/usb", From: "TARVM_REPO"}, Area: settings.Choice{Name: "play", Dir: "/vm/play", From: "TARVM_AREA"},
			Project: settings.Choice{Name: "q", From: "TARVM_PROJECT"}, Policy: office,
		}},
		{"a flag before the environment", settings.Given{Repository: "usb", Area: "work", Project: "z"}, "TARVM_AREA=play TARVM_REPO=home TARVM_PROJECT=q", settings.Selection{
			Repository: settings.Choice{Name: "usb", Dir: "/usb", From: "--repo"}, Area: settings.Choice{Name: "work", Dir: "/vm/work", From: "--area"},
			Project: settings.Choice{Name: "z", From: "--project"}, Policy: office,
		}},
		{"directories", settings.Given{Repository: "/usb/x/..", Area: "/elsewhere/"}, "", settings.Selection{
			Repository: settings.Choice{Name: "usb", Dir: "/usb", From: "--repo"}, Area: settings.Choice{Dir: "/elsewhere", From: "--area"},
			Project: settings.Choice{Name: "thesis", From: at(4)}, Policy: office,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, v := range strings.Fields(c.env) {
				name, value, _ := strings.Cut(v, "=")
				t.Setenv(name, value)
			}
			sel, err := s.Select(c.given)
			must(t, err)
			if sel != c.want {
				t.Errorf("\n got %+v\nwant %+v", sel, c.want)
			}
		})
	}
	wd, err := os.Getwd()
	must(t, err)
	if sel, err := s.Select(settings.Given{Area: "."}); err != nil || sel.Area.Dir != wd {
		t.Errorf("%+v %v", sel, err)
	}
	_, err = s.Select(settings.Given{Area: "plya"})
	if want := `--area: no area is called "plya" (did you mean play?)`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	t.Setenv(settings.EnvProject, "a/b")
	if _, err = s.Select(settings.Given{}); !errors.As(err, new(*settings.NameError)) || !strings.HasPrefix(err.Error(), "TARVM_PROJECT: ") {
		t.Errorf("%v", err)
	}
	t.Setenv(settings.EnvProject, "")
	write(t, path, "\nrepository = \"x\"\n")
	_, err = load(t, path).Select(settings.Given{})
	if want := path + `:2: no repository is called "x"`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestPaths(t *testing.T) {
	unix(t)
	if runtime.GOOS == "darwin" {
		t.Skip("paths of the XDG specification")
	}
	path := home(t)
	h := os.Getenv("HOME")
	if path != h+"/.config/tarvm/config.toml" {
		t.Error(path)
	}
	state := func(want string) string {
		t.Helper()
		p, err := settings.StatePath("areas", "/vm/My VM: ü/")
		must(t, err)
		if !strings.HasPrefix(p, want+"/areas/My_VM___-") {
			t.Errorf("%s, want it in %s", p, want)
		}
		return p
	}
	p := state(h + "/.local/state/tarvm")
	t.Setenv("XDG_STATE_HOME", "relative")
	if state(h+"/.local/state/tarvm") != p {
		t.Error("not the same again")
	}
	t.Setenv("XDG_STATE_HOME", "/state")
	state("/state/tarvm")
	other, err := settings.StatePath("areas", "/vm/My VM; ü")
	must(t, err)
	if filepath.Base(other) == filepath.Base(p) {
		t.Error("two directories have one name")
	}
	long, err := settings.StatePath("areas", "/"+strings.Repeat("x", 255))
	must(t, err)
	if n := len(filepath.Base(long)); n > 80 {
		t.Errorf("a name of %d bytes", n)
	}
	t.Setenv("XDG_CONFIG_HOME", "/config")
	if p, err := settings.Path(); err != nil || p != "/config/tarvm/config.toml" {
		t.Error(p, err)
	}
	t.Setenv(settings.EnvConfig, "x.toml")
	if p, err := settings.Path(); err != nil || !filepath.IsAbs(p) || filepath.Base(p) != "x.toml" {
		t.Error(p, err)
	}
}

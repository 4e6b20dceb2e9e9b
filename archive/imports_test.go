package archive_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// layer is a part of the module and what of the module it may import besides itself. Prefixes end with a slash
// where the tree below is meant.
type layer struct {
	path string
	may  []string
}

// The rules, the most special first. Imports run one way:
// formats, delta, manifest, archive, chain, repo and inspect, cli; and ovf beside all of these, on the formats alone.
var graph = []layer{
	{"formats/formatstest", []string{"formats"}},
	{"formats/all", []string{"formats/"}},
	{"formats/layers/", []string{"formats", "formats/raw"}},
	{"formats/machine/", nil}, // and no disk
	{"formats/vmx/", []string{"formats/machine/"}},
	{"formats/vbox/", []string{"formats/machine/"}},
	{"formats/libvirt/", []string{"formats/machine/"}},
	{"formats/xl/", []string{"formats/machine/"}},
	{"formats/hyperv/", []string{"formats/machine/"}},
	{"formats/qemu/", []string{"formats/machine/"}},
	{"formats", nil},
	{"formats/internal/", []string{"formats", "formats/raw"}}, // raw tells holes
	{"formats/", []string{"formats", "formats/internal/"}},    // a format knows no other
	{"delta/", nil}, // and no format
	{"manifest/", []string{"delta/"}},
	{"archive/pax/", nil},
	{"archive/archivetest", nil},
	{"archive/codec/all", []string{"archive/codec/"}},
	{"archive/codec", nil},
	{"archive/codec/", []string{"archive/codec"}},
	{"archive/volume/", []string{"formats"}},
	{"archive/vmdir/", []string{"formats", "formats/vmdk", "delta/", "manifest/"}},
	{"archive", []string{"formats", "formats/layers", "delta/", "manifest/", "archive/codec", "archive/pax", "archive/vmdir", "archive/volume"}},
	{"archive/chain/", []string{"formats", "delta/", "manifest/", "archive", "archive/codec", "archive/pax", "archive/vmdir", "archive/volume"}},
	{"archive/repo/", []string{"formats", "delta/", "manifest/", "archive", "archive/codec", "archive/pax", "archive/vmdir", "archive/volume", "archive/chain"}},
	{"archive/inspect/", []string{"formats/", "delta/", "manifest/", "archive", "archive/codec", "archive/chain"}},
	{"ovf", []string{"formats/machine/", "formats/vbox"}}, // VirtualBox carries its own element in an envelope
	{"ovf/all", []string{"formats/machine/", "ovf/"}},
	{"ovf/target/", []string{"formats", "formats/layers", "formats/raw", "formats/machine/", "ovf"}},
	{"ovf/ova/", []string{"formats", "formats/machine/", "ovf", "ovf/target"}},
	{"ovf/lint/", []string{"formats", "formats/machine/", "ovf", "ovf/ova"}},
	{"ovf/folder/", []string{"formats", "formats/machine/", "formats/qemu", "ovf/target"}},
	{"ovf/internal/", []string{"formats"}},
	{"ovf/", []string{"formats", "formats/machine/", "ovf/target", "ovf/internal/"}}, // a target knows no other
	{"cmd/tarvm", []string{"cmd/tarvm/cli"}},
	{"cmd/", []string{""}},
	{"testdata/", []string{""}},
}

func (l *layer) holds(path string) bool { return within(l.path, path) }

// within reports whether path is rule, or below it when that ends with a slash.
func within(rule, path string) bool {
	return rule == "" || path == strings.TrimSuffix(rule, "/") || strings.HasSuffix(rule, "/") && strings.HasPrefix(path, rule)
}

// The import graph is that of the layers: each package imports of this module what its layer may, on any
// system, and only commands and tests take a whole list.
func TestImports(t *testing.T) {
	const module = "tarvm"
	used := make(map[string]bool)
	for _, system := range []string{"linux", "windows", "darwin"} {
		cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
		cmd.Dir = ".."
		cmd.Env = append(cmd.Environ(), "GOOS="+system, "CGO_ENABLED=0")
		out, err := cmd.Output()
		if errors.Is(err, exec.ErrNotFound) {
			t.Skip(err)
		}
		if err != nil {
			var ee *exec.ExitError
			if errors.As(err, &ee) {
				t.Fatalf("%v\n%s", err, ee.Stderr)
			}
			t.Fatal(err)
		}
		packages := 0
		for d := json.NewDecoder(strings.NewReader(string(out))); ; packages++ {
			var p struct {
				ImportPath string
				Imports    []string
			}
			if err := d.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			path := strings.TrimPrefix(p.ImportPath, module+"/")
			i := slices.IndexFunc(graph, func(l layer) bool { return l.holds(path) })
			if i < 0 {
				t.Errorf("%s: no layer holds this package", path)
				continue
			}
			used[graph[i].path] = true
			for _, imp := range p.Imports {
				to, ok := strings.CutPrefix(imp, module+"/")
				switch {
				case !ok:
					if imp == "testing" && !strings.HasSuffix(path, "test") {
						t.Errorf("%s: %s is shipped, and imports testing", system, path)
					}
				case strings.HasSuffix(to, "/all") && !strings.HasPrefix(path, "cmd/") && !strings.HasPrefix(path, "testdata/"):
					t.Errorf("%s: %s imports %s: libraries receive the list", system, path, to)
				case !slices.ContainsFunc(graph[i].may, func(r string) bool { return within(r, to) }) && !own(graph[i].path, path, to):
					t.Errorf("%s: %s imports %s, and may only: %q", system, path, to, graph[i].may)
				}
			}
		}
		if packages < 20 {
			t.Fatalf("%s: only %d packages", system, packages)
		}
	}
	for _, must := range []string{"formats/", "formats/machine/", "ovf", "ovf/target/", "delta/", "manifest/", "archive", "archive/chain/", "archive/vmdir/"} {
		if !used[must] {
			t.Errorf("no package is in layer %s", must)
		}
	}
}

// own reports whether the import stays in the layer of one package and its internal ones. Formats share a rule, as
// codecs and targets do, and are strangers.
func own(rule, from, to string) bool {
	return strings.HasSuffix(rule, "/") && rule != "formats/" && rule != "archive/codec/" && rule != "ovf/" && within(rule, to) ||
		strings.HasPrefix(to, from+"/internal/")
}

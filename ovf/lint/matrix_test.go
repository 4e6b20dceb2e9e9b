package lint_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarvm/formats/formatstest"
	"tarvm/formats/machine/machinetest"
	"tarvm/ovf/lint"
	"tarvm/ovf/ova"
)

// matrix is what importers made of the variants of a good package: VirtualBox 7.2.22, virt-v2v 2.2, govc 0.18 with the
// simulator, as they did when they were run. ok, w(arns), x: reads wrongly, F: refuses.
var matrix = []struct{ name, virtualbox, v2v, govc string }{
	{"ok", "ok", "ok", "ok"},
	{"mf-last", "ok", "ok", "ok"},
	{"ovf-last", "ok", "ok", "ok"},
	{"mf-first", "ok", "ok", "ok"},
	{"no-mf", "ok", "ok", "ok"},
	{"mf-sha1", "ok", "ok", "ok"},
	{"mf-sha384", "ok", "w", "ok"},
	{"mf-sha512", "ok", "w", "ok"},
	{"mf-md5", "ok", "w", "ok"},
	{"mf-space", "ok", "w", "ok"},
	{"mf-nospace", "ok", "w", "ok"},
	{"mf-crlf", "ok", "ok", "ok"},
	{"mf-sha2-256", "ok", "w", "ok"},
	{"mf-lower", "ok", "w", "ok"},
	{"mf-upperhex", "ok", "F", "ok"},
	{"mf-nonl", "ok", "ok", "ok"},
	{"mf-bad", "F", "F", "ok"},
	{"mf-missing-entry", "ok", "ok", "w"},
	{"mf-extra-entry", "ok", "w", "ok"},
	{"tar-pax", "F", "ok", "ok"},
	{"tar-gnu", "ok", "ok", "ok"},
	{"dot-slash", "F", "F", "ok"},
	{"subdir", "F", "ok", "ok"},
	{"tar-base256", "ok", "ok", "ok"},
	{"gzip-disk", "F", "ok", "ok"},
	{"gzip-disk-gzname", "ok", "ok", "ok"},
	{"chunked", "F", "x", "F"},
	{"wrong-size", "ok", "ok", "ok"},
	{"no-size", "ok", "ok", "ok"},
	{"cap-units", "ok", "ok", "ok"},
	{"cap-nounits", "ok", "ok", "x"},
	{"vbox-family", "ok", "ok", "F"},
	{"xen-family", "ok", "ok", "F"},
	{"instanceId", "ok", "x", "x"},
	{"sata", "ok", "ok", "F"},
	{"sata-vmw", "ok", "ok", "F"},
	{"nvme-vmw", "ok", "x", "F"},
	{"ide", "ok", "ok", "ok"},
	{"pvscsi", "ok", "ok", "ok"},
	{"multi-subtype", "ok", "ok", "F"},
	{"mem-mb", "ok", "ok", "ok"},
	{"mem-gb", "ok", "x", "x"},
	{"mem-bytes", "F", "x", "x"},
	{"efi", "x", "ok", "ok"},
	{"ns-prefix", "ok", "ok", "ok"},
	{"ovf2-ns", "ok", "x", "ok"},
	{"hostres-noprefix", "ok", "ok", "ok"},
	{"noname", "ok", "w", "ok"},
	{"unknown-item", "F", "ok", "F"},
	{"unknown-item-opt", "ok", "ok", "F"},
	{"vmdk-trim-eos", "ok", "ok", "ok"},
	{"vmdk-trunc", "F", "x", "x"},
	{"qcow2-disk", "F", "ok", "ok"},
	{"raw-disk", "F", "ok", "ok"},
}

// variants makes a good package with qemu-img and tar, and its variants with the corpus's generator.
func variants(t *testing.T) string {
	t.Helper()
	gen := machinetest.Corpus(t, "made-by-clients", "variant-generator.py")[0].Data
	for _, tool := range []string{"qemu-img", "python3", "tar"} {
		formatstest.Tool(t, tool)
	}
	dir := t.TempDir()
	raw := make([]byte, 64<<20)
	for i := range 3 << 20 {
		raw[i+5<<20] = byte(i * i >> 7)
	}
	must(t, os.WriteFile(filepath.Join(dir, "blank.raw"), raw, 0o600))
	formatstest.Run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", "blank.raw", "blank-disk1.vmdk")
	st, err := os.Stat(filepath.Join(dir, "blank-disk1.vmdk"))
	must(t, err)
	text, err := os.ReadFile("testdata/blank.ovf")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "blank.ovf"), bytes.Replace(text, []byte("SIZE"), []byte(itoa(st.Size())), 1), 0o600))
	formatstest.Run(t, dir, "tar", "--format=ustar", "-cf", "blank.ova", "blank.ovf", "blank-disk1.vmdk")
	gen = bytes.ReplaceAll(gen, []byte("/tmp/ovf/ova/"), []byte(dir+"/"))
	must(t, os.WriteFile(filepath.Join(dir, "gen.py"), gen, 0o600))
	formatstest.Run(t, dir, "python3", "gen.py")
	return dir
}

// spool makes the spools of a test.
func spool(t *testing.T) func(string) (ova.Spool, error) {
	dir := t.TempDir()
	return func(string) (ova.Spool, error) { return os.CreateTemp(dir, "spool") }
}

func open(t *testing.T, path string) *ova.Package {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	p, err := ova.Open(t.Context(), source(t, f), ova.Options{Spool: spool(t)})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

func check(t *testing.T, p *ova.Package) []lint.Finding {
	t.Helper()
	v, err := p.Verify(t.Context(), ova.VerifyOptions{})
	must(t, err)
	list, err := lint.Check(t.Context(), p, lint.Options{Verified: v})
	must(t, err)
	return list
}

func TestMatrix(t *testing.T) {
	formatstest.OneGoroutine(t)
	dir := variants(t)
	made, err := filepath.Glob(filepath.Join(dir, "*.ova"))
	must(t, err)
	if len(made) != len(matrix)+1 { // and blank.ova
		t.Errorf("%d packages were made, %d are known", len(made)-1, len(matrix))
	}
	short := map[lint.Severity]string{0: "ok", lint.Warns: "w", lint.ReadsWrong: "x", lint.Refuses: "F"}
	for _, m := range matrix {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(dir, m.name+".ova")
			list := check(t, open(t, path))
			for imp, want := range map[lint.Importer]string{lint.VirtualBox: m.virtualbox, lint.VirtV2V: m.v2v, lint.Govc: m.govc} {
				if got := short[lint.Worst(list, imp)]; got != want {
					t.Errorf("%s: %s, when it was run it was %s", imp, got, want)
					for _, f := range list {
						t.Logf("  %s", f)
					}
				}
			}
			vmware := slices.ContainsFunc(list, func(f lint.Finding) bool { return f.Rule == "mf-end-of-stream" })
			if want := m.name != "no-mf" && m.name != "vmdk-trim-eos" && m.name != "vmdk-trunc" && !strings.HasPrefix(m.name, "gzip") && !strings.HasSuffix(m.name, "-disk"); vmware != want {
				t.Errorf("bytes behind the end of the stream: %v", vmware)
			}
			// Which of its parts is the disk, and that one is cut off, virt-v2v does not say before it converts.
			blind := m.name == "chunked" || m.name == "vmdk-trunc"
			if got := v2vVerdict(t, path, m.name); got != "" && got != m.v2v && !blind {
				t.Errorf("virt-v2v: %s, the table has %s", got, m.v2v)
			}
			fixed(t, nil, path, m.name, list)
		})
	}
}

// TestMatrixVirtualBox: VirtualBox does with each package what the table says, and takes what was repaired.
func TestMatrixVirtualBox(t *testing.T) {
	box := formatstest.NewChroot(t, formatstest.VBoxManage)
	dir := variants(t)
	for _, m := range matrix {
		t.Run(m.name, func(t *testing.T) {
			path := filepath.Join(dir, m.name+".ova")
			if got := vboxVerdict(t, box, path, m.name); got != m.virtualbox {
				t.Errorf("VirtualBox: %s, the table has %s", got, m.virtualbox)
			}
			fixed(t, box, path, m.name, check(t, open(t, path)))
		})
	}
}

// vboxVerdict has VirtualBox import a package, and says in the words of the matrix what it made of it.
func vboxVerdict(t *testing.T, c *formatstest.Chroot, path, name string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	in := c.Dir + "/" + name + ".ova"
	must(t, os.WriteFile(c.Root+in, b, 0o600))
	defer os.Remove(c.Root + in)
	for try := 1; ; try++ {
		out, err := c.Try(t, formatstest.VBoxManage, "import", in, "--vsys", "0", "--vmname", "vm", "--basefolder", c.Dir+"/vms")
		if err == nil {
			break
		}
		// It finds a wrong digest now and then, of its own exports, too, and not when it is asked again.
		if try == 4 || !strings.Contains(out, "Digest mismatch") {
			t.Logf("VirtualBox: %s", out)
			return "F"
		}
	}
	defer c.Run(t, formatstest.VBoxManage, "unregistervm", "vm", "--delete")
	out := c.Run(t, formatstest.VBoxManage, "showvminfo", "vm", "--machinereadable")
	want := []string{"memory=1024\n", "cpus=2\n", `firmware="BIOS"`, `-disk1`}
	if name == "efi" {
		want[2] = `firmware="EFI`
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Logf("VirtualBox does not say %q:\n%s", w, out)
			return "x"
		}
	}
	return "ok"
}

// fixed repairs a package and judges the result; box is nil without VirtualBox.
func fixed(t *testing.T, box *formatstest.Chroot, path, name string, before []lint.Finding) {
	t.Helper()
	p := open(t, path)
	out := filepath.Join(t.TempDir(), "fixed.ova")
	damaged := slices.ContainsFunc(before, func(f lint.Finding) bool { return f.Rule == "mf-digest" })
	rep := fix(t, p, out, lint.FixOptions{Damaged: damaged})
	q := open(t, out)
	v, err := q.Verify(t.Context(), ova.VerifyOptions{})
	must(t, err)
	if v.Err() != nil || !v.Manifest {
		t.Errorf("repaired: %v", v.Err())
	}
	after := check(t, q)
	if !slices.EqualFunc(after, rep.Left, func(a, b lint.Finding) bool { return a.String() == b.String() }) {
		t.Errorf("left by the report:\n%v\nby a new look:\n%v", rep.Left, after)
	}
	for _, f := range after {
		if f.Fixes {
			t.Errorf("not repaired: %s", f)
		}
	}
	for _, f := range before {
		if f.Fixes && !slices.ContainsFunc(rep.Fixed, func(g lint.Finding) bool { return g.Rule == f.Rule }) {
			t.Errorf("repaired, but not told: %s", f)
		}
	}
	if lint.Worst(after, lint.VirtV2V) == 0 {
		v2v(t, out, name)
	}
	if box != nil && lint.Worst(after, lint.VirtualBox) == 0 {
		if got := vboxVerdict(t, box, out, name); got != "ok" {
			t.Errorf("VirtualBox makes %q of what was repaired", got)
		}
	}
	if dir := os.Getenv("TARVM_KEEP_FIXED"); dir != "" { // for importers that are run by hand
		b, err := os.ReadFile(out)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), b, 0o600))
	}
}

// v2v has virt-v2v read a package; it must take it without a warning about it.
func v2v(t *testing.T, path, name string) {
	t.Helper()
	if got := v2vVerdict(t, path, name); got != "" && got != "ok" {
		t.Errorf("virt-v2v makes %q of what was repaired", got)
	}
}

// v2vVerdict runs virt-v2v on a variant, and says in the words of the matrix what it made of it; "" if it is not there.
func v2vVerdict(t *testing.T, path, name string) string {
	t.Helper()
	if _, err := exec.LookPath("virt-v2v"); err != nil {
		if os.Getenv("TARVM_REQUIRE_TOOLS") == "1" {
			t.Fatal(err)
		}
		t.Log(err) // the rest is judged all the same
		return ""
	}
	cmd := exec.Command("virt-v2v", "--print-source", "-i", "ova", path, "-o", "null")
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LIBGUESTFS_BACKEND=direct")
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed):
		t.Logf("virt-v2v: %s", out)
		return "F"
	case err != nil:
		t.Fatal(err)
	}
	bus := map[string]string{"ide": "[ide]", "sata": "[sata]", "sata-vmw": "[sata]", "nvme-vmw": "[nvme]"}[name]
	if bus == "" {
		bus = "[scsi]"
	}
	firmware := "firmware: bios"
	if name == "efi" {
		firmware = "firmware: uefi"
	}
	for _, want := range []string{"memory: 1073741824", bus, "nr vCPUs: 2", firmware} {
		if !bytes.Contains(out, []byte(want)) {
			t.Logf("virt-v2v does not say %q:\n%s", want, out)
			return "x"
		}
	}
	for _, w := range []string{"unable to parse line", "non-existent file", "could not parse", "no parent controller", "unknown VMware controller"} {
		if bytes.Contains(out, []byte(w)) {
			t.Logf("virt-v2v warns:\n%s", out)
			return "w"
		}
	}
	return "ok"
}

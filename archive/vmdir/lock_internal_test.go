package vmdir

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"tarvm/manifest"
)

func TestParseProcess(t *testing.T) {
	for _, c := range []struct {
		s     string
		pid   int
		start uint64
		name  string
	}{
		{"123", 123, 0, ""},
		{"123-456", 123, 456, ""},
		{"123-456(vmware-vmx)", 123, 456, "vmware-vmx"},
		{"123(vmx-(x))", 123, 0, "vmx-(x)"},
		{"123-x", 123, 0, ""},
		{"", 0, 0, ""},
		{"0", 0, 0, ""},
		{"-5", 0, 0, ""},
		{"x", 0, 0, ""},
		{"99999999999", 0, 0, ""},
		{"1-99999999999999999999999", 1, 0, ""},
	} {
		if pid, start, name := parseProcess(c.s); pid != c.pid || start != c.start || name != c.name {
			t.Errorf("parseProcess(%q) = %d, %d, %q, want %d, %d, %q", c.s, pid, start, name, c.pid, c.start, c.name)
		}
	}
}

func TestUUIDBytes(t *testing.T) {
	want := "56 4d 11 22 33 44 55 66-77 88 99 aa bb cc dd ee"
	a, b := uuidBytes(want), uuidBytes("564d1122-3344-5566-7788-99AABBCCDDEE\n")
	if len(a) != 16 || string(a) != string(b) {
		t.Errorf("%x and %x", a, b)
	}
	for _, s := range []string{"", "56", want + "00", "zz" + want[2:]} {
		if b := uuidBytes(s); b != nil {
			t.Errorf("uuidBytes(%q) = %x", s, b)
		}
	}
}

func TestProcessLives(t *testing.T) {
	if !processLives(os.Getpid(), 0) {
		t.Error("this process does not live")
	}
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc: ", err)
	}
	if processLives(os.Getpid(), 1) {
		t.Error("this process did not start at the first tick")
	}
	if processLives(1<<30, 0) {
		t.Error("a process lives whose number is above the kernel's limit")
	}
}

// What cannot be judged counts as held, and no lock file brings control characters into a message.
func TestVMwareLockFiles(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, c := range []struct{ content, owner string }{
		{"", ""},
		{"\x00\x00\x00", ""},
		{"one", ""},
		{"host pid 1 X", `"pid"`},
		{"host 12-34(vmx) 1 X", "vmx, process 12 on machine host"},
		{"host 12-34 1 X", "process 12 on machine host"},
		{"\x1b[31mhost 12(\x1b]0;x\x07) 1 X", `\x1b]0;x\a, process 12 on machine \x1b[31mhost`},
		{strings.Repeat("h", 9000) + " 12 1 X", ""},
		{strings.Repeat("h", 900) + " 12 1 X", "process 12 on machine " + strings.Repeat("h", 64) + "..."},
	} {
		if err := os.WriteFile(filepath.Join(dir, "x.lck"), []byte(c.content), 0o644); err != nil {
			t.Fatal(err)
		}
		entries, err := Walk(context.Background(), root, WalkOptions{})
		if err != nil {
			t.Fatal(err)
		}
		locks, err := Running(context.Background(), root, dir, entries)
		if err != nil || len(locks) != 1 {
			t.Fatalf("%.20q: %v, %v", c.content, locks, err)
		}
		l := locks[0]
		if l.Path != "x.lck" || l.Kind != LockVMware || l.Stale || l.Hint == "" || l.Owner != c.owner {
			t.Errorf("%.20q: %+v, want owner %q", c.content, l, c.owner)
		}
		if strings.ContainsFunc(l.Owner+l.Hint, unicode.IsControl) {
			t.Errorf("%.20q: control characters in %q", c.content, l.Owner)
		}
	}
	// A lock that is gone between the walk and the question is none.
	e := Entry{Skipped: "lock file"}
	e.Path, e.Type, e.Role = "gone.lck", manifest.File, manifest.RoleLock
	if locks, err := Running(context.Background(), root, dir, []Entry{e}); err != nil || len(locks) != 0 {
		t.Errorf("%v, %v", locks, err)
	}
}

func TestHints(t *testing.T) {
	h := hints{dir: "/vms/a b", vmx: "sub/vm.vmx"}
	if got, want := h.vmware(), `"`+filepath.Join("/vms/a b", "sub", "vm.vmx")+`"`; !strings.Contains(got, want) {
		t.Errorf("%q does not say %s", got, want)
	}
	if got := (&hints{}).vmware(); !strings.Contains(got, "FILE.vmx") {
		t.Errorf("%q", got)
	}
}

package formatstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Client returns the path of a program that no distribution's package brings,
// or that takes long to set up: in the folder bin of TARVM_CLIENTS_DIR, which
// make clients fills, or on the PATH. Without it the test is skipped, with
// TARVM_REQUIRE_TOOLS, too.
func Client(t testing.TB, name string) string {
	t.Helper()
	if dir := os.Getenv("TARVM_CLIENTS_DIR"); dir != "" {
		if p, err := exec.LookPath(filepath.Join(dir, "bin", name)); err == nil {
			return p
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("no %s: make clients sets it up, TARVM_CLIENTS_DIR names where", name)
	}
	return p
}

// Compile compiles a C program with libraries. Without a compiler or the
// libraries' headers the test is skipped, or fails when TARVM_REQUIRE_TOOLS is 1.
func Compile(t testing.TB, program, source string, libs ...string) {
	t.Helper()
	Tool(t, "gcc")
	text, err := exec.Command("gcc", append([]string{"-o", program, source}, libs...)...).CombinedOutput()
	if err == nil {
		return
	}
	if os.Getenv("TARVM_REQUIRE_TOOLS") == "1" {
		t.Fatalf("required: %s: %v\n%s", source, err, text)
	}
	t.Skipf("%s does not compile here: %s", source, text)
}

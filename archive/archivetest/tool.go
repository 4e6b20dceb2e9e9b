package archivetest

import (
	"os"
	"os/exec"
	"testing"
)

// Tool returns the path of a foreign program. Where it is missing the test is skipped: see Without.
func Tool(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		Without(t, name+" is missing")
	}
	return p
}

// Tools skips the test unless all the programs are there: see Without.
func Tools(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		Tool(t, n)
	}
}

// Without skips a test that this machine cannot run. TARVM_REQUIRE_TOOLS=1 makes it fail instead.
func Without(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("TARVM_REQUIRE_TOOLS") == "1" {
		t.Fatalf("%s, and TARVM_REQUIRE_TOOLS is 1", why)
	}
	t.Skip(why)
}

//go:build race

package formatstest

import "testing"

// OneGoroutine skips a long test in which the race detector, which is on and makes
// it some twenty times as slow, has nothing to find.
func OneGoroutine(t testing.TB) {
	t.Helper()
	t.Skip("one goroutine: nothing for the race detector")
}

//go:build !race

package formatstest

import "testing"

// OneGoroutine skips a long test in which the race detector, which is off, would
// have nothing to find.
func OneGoroutine(testing.TB) {}

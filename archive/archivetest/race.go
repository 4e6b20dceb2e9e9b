//go:build race

package archivetest

// Race: the race detector is on, which makes coding some ten times as slow.
const Race = true

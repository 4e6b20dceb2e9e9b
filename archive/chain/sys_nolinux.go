//go:build !linux

package chain

import "os"

func isMount(string) bool { return false }

func syncFS(*os.File) (bool, error) { return false, nil }

//go:build !linux

package vmdir

import (
	"errors"
	"os"
)

// What only Linux offers here; callers write zeros, or copy, instead.

func punchHole(*os.File, int64, int64) error { return opError("fallocate", errors.ErrUnsupported) }

func allocate(*os.File, int64, int64) error { return opError("fallocate", errors.ErrUnsupported) }

func cloneRange(_, _ *os.File, _, _, _ int64) error { return opError("clone", errors.ErrUnsupported) }

func copySome(_, _ *os.File, _, _, _ int64) (int64, error) { return 0, errors.ErrUnsupported }

func startWriteback(*os.File, int64, int64) {}

//go:build !unix

package repo

import "errors"

func alive(int) bool { return true }

func noLocks(err error) bool { return errors.Is(err, errors.ErrUnsupported) }

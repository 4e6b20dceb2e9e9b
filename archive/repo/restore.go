package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"tarvm/archive"
	"tarvm/archive/chain"
	"tarvm/archive/vmdir"
)

// RestoreOptions say how to restore an entry. The zero value refuses to overwrite what is not saved.
type RestoreOptions struct {
	chain.RestoreOptions // Known, Seen and Force are filled in

	Record *Record // what was last in the directory
	// TrustTimes does not read files that are what Record says, by size, times and inode.
	TrustTimes bool
	Discard    bool // overwrite what is not saved
	Live       bool // overwrite a machine that seems to run
	TempDir    string
}

// RestoreResult says what was restored.
type RestoreResult struct {
	*chain.RestoreResult
	Entry *Entry `json:"entry"`
	Was   *Entry `json:"was,omitempty"` // what the directory held, nil: nothing that is saved
	// Lost: the directory held what was not saved.
	Lost   bool    `json:"lost,omitempty"`
	Record *Record `json:"-"`
}

// An UnsavedError says that a directory holds what no entry has.
type UnsavedError struct {
	Dir  string
	Base *Entry // what was there last, nil: not known
}

func (e *UnsavedError) Error() string {
	if e.Base != nil {
		return fmt.Sprintf("%s has changes since %s that are not saved", e.Dir, e.Base)
	}
	return fmt.Sprintf("%s holds what is not saved", e.Dir)
}

// Restore makes dir what an entry is. What dir holds already is used; when that is no entry's state it is refused with an
// *UnsavedError, unless o says otherwise. A machine that runs is an *archive.RunningError, a directory that is not apart from
// the repository an *OverlapError. Other errors are those of Read and of chain.Restore.
func (r *Repo) Restore(ctx context.Context, f *Forest, e *Entry, dir string, o RestoreOptions) (*RestoreResult, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := r.Apart(abs); err != nil {
		return nil, err
	}
	res := &RestoreResult{Entry: e}
	rd, err := r.Read(ctx, f, e) // before the directory is read: something may be missing
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	partial := len(o.Only) > 0 || o.Keep
	if _, err := os.Lstat(abs); err == nil {
		if !o.Live {
			if err := running(ctx, abs); err != nil {
				return nil, err
			}
		}
		if _, err := chain.Recover(ctx, abs); err != nil {
			return nil, err
		}
		s, err := r.State(ctx, f, abs, StateOptions{
			Record: o.Record, TrustTimes: o.TrustTimes, Live: o.Live, Workers: o.Workers, TempDir: o.TempDir, Progress: o.Progress,
			Quick: o.TrustTimes && o.quick(f, abs),
		})
		if err == nil && s.Quick && s.Entry == nil { // not what it was: it has to be read
			s, err = r.State(ctx, f, abs, StateOptions{
				Record: o.Record, TrustTimes: true, Live: o.Live, Workers: o.Workers, TempDir: o.TempDir, Progress: o.Progress,
			})
		}
		if err != nil {
			return nil, err
		}
		defer s.Close()
		res.Was = s.Entry
		if !s.Empty && s.Entry == nil {
			if !o.Discard {
				return nil, &UnsavedError{Dir: abs, Base: s.Base}
			}
			res.Lost = true
		}
		switch {
		case s.Scan != nil:
			o.Known, o.Seen = s.Scan.Manifest, s.Scan.Seen
		case s.Quick && s.Entry != nil:
			m, c, err := r.ManifestOf(ctx, s.Entry)
			if err != nil {
				return nil, err
			}
			defer c.Close()
			o.Known, o.Seen = m, o.Record.Seen
		}
		// What is there is saved, or to be given up: then it need not have anything in common with the entry.
		o.Force = true
	}
	res.RestoreResult, err = chain.Restore(ctx, rd.Chain, rd.Head(), abs, o.RestoreOptions)
	if err != nil || partial {
		return res, err
	}
	res.Record, err = r.record(ctx, e, rd.Snapshot(rd.Head()), abs)
	return res, err
}

// quick reports whether the record speaks of dir.
func (o *RestoreOptions) quick(f *Forest, dir string) bool { return o.Record.of(f, dir) != nil }

// PlanRestore says what Restore would do, and reads what it would read of the directory.
func (r *Repo) PlanRestore(ctx context.Context, f *Forest, e *Entry, dir string, o RestoreOptions) (*chain.Plan, error) {
	rd, err := r.Read(ctx, f, e)
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	o.Force = true
	return chain.PlanRestore(ctx, rd.Chain, rd.Head(), dir, o.RestoreOptions)
}

// running refuses a directory whose machine runs.
func running(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := vmdir.Walk(ctx, root, vmdir.WalkOptions{})
	if errors.Is(err, vmdir.ErrInterrupted) {
		return nil // by a restore that is to be completed
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	locks, err := vmdir.Running(ctx, root, dir, entries)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	var held []vmdir.Lock
	for _, l := range locks {
		if !l.Stale {
			held = append(held, l)
		}
	}
	if len(held) > 0 {
		return &archive.RunningError{Dir: dir, Locks: held}
	}
	return nil
}

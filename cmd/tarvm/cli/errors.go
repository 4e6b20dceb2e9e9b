package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"tarvm/archive"
	"tarvm/archive/chain"
	"tarvm/archive/codec"
	"tarvm/archive/repo"
	"tarvm/archive/repo/catalogue"
	"tarvm/archive/vmdir"
	"tarvm/cmd/tarvm/platform"
	"tarvm/delta"
	"tarvm/formats"
	"tarvm/formats/layers"
	"tarvm/formats/machine"
	"tarvm/manifest"
	"tarvm/ovf"
	"tarvm/ovf/ova"
	"tarvm/ovf/target"
)

// A usageError is a mistake on the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(err error) error { return &usageError{err} }

var (
	// errUnverified is wrapped by the end of a run that found damage, or could not look for it.
	errUnverified = errors.New("not verified")
	// errDifferent is diff's end with --exit-code; it needs no message.
	errDifferent = errors.New("different")
)

// A hinted error tells what the user can do.
type hinted struct {
	err  error
	hint string
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }

func hint(err error, format string, args ...any) error {
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// fail prints err with its hints, and returns the exit code.
func (p *program) fail(ctx context.Context, err error) int {
	if brokenPipe(err) || errors.Is(err, errDifferent) {
		return exitFailed
	}
	var u *usageError
	if ctx.Err() != nil && !errors.As(err, &u) {
		p.message("tarvm: interrupted")
		return exitFailed
	}
	p.message("tarvm: " + err.Error())
	for _, h := range hints(err) {
		p.message("hint: " + h)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var u *usageError
	var fe *codec.FrameError
	switch {
	case errors.As(err, &u):
		return exitUsage
	case errors.As(err, &fe), errors.As(err, new(*layers.IDError)), errors.As(err, new(*catalogue.DigestError)), errors.As(err, new(*catalogue.SizeError)):
		return exitCorrupt
	}
	for _, bad := range []error{
		errUnverified, archive.ErrCorrupt, archive.ErrTruncated, manifest.ErrCorrupt,
		chain.ErrCorrupt, delta.ErrTable, delta.ErrSegment, formats.ErrCorrupt,
		repo.ErrCorrupt, ovf.ErrDigest, ovf.ErrSignature, ova.ErrCorrupt, ova.ErrSize, ova.ErrNotListed,
	} {
		if errors.Is(err, bad) {
			return exitCorrupt
		}
	}
	return exitFailed
}

// leadsOut reports whether os.Root refused a path: its error has no name.
func leadsOut(err error) bool { return strings.HasSuffix(err.Error(), ": path escapes from parent") }

// inPackage reports whether err is damage of a package without a manifest.
func inPackage(err error) bool {
	for fe := new(formats.FormatError); errors.As(err, &fe); err = fe.Err {
		if fe.Format == "xva" || fe.Format == "vagrant" {
			return errors.Is(err, formats.ErrCorrupt)
		}
	}
	return false
}

// hints says what the user can do about err: what was added on the way, or what follows from its type.
func hints(err error) []string {
	var hs []string
	for e := err; e != nil; e = errors.Unwrap(e) {
		if h, ok := e.(*hinted); ok { //nolint:errorlint // each link of the chain in turn
			hs = append(hs, h.hint)
		}
	}
	if len(hs) > 0 {
		return hs
	}
	var (
		running *archive.RunningError
		changed *archive.ChangedError
		missing *chain.MissingParentError
		space   *chain.SpaceError
		heads   *chain.HeadsError
		clash   *chain.CollisionError
		other   *chain.UnrelatedError
	)
	if hs := repoHints(err); hs != nil {
		return hs
	}
	switch {
	case errors.As(err, &running):
		for _, l := range running.Locks {
			if l.Hint != "" && !slices.Contains(hs, l.Hint) {
				hs = append(hs, l.Hint)
			}
		}
		return append(hs, "--live packs it nevertheless; its state is then what a power failure would leave")
	case errors.As(err, &changed):
		return []string{"stop or pause the machine; --live packs it as it is, --tries N reads the file more often"}
	case errors.As(err, &missing):
		return []string{"--search DIR looks for it in a further directory; its id is " + missing.ID.String()}
	case errors.As(err, &heads):
		return []string{"run tarvm for each of them, with it as the only argument: its ancestors are found"}
	case errors.As(err, &space):
		return []string{fmt.Sprintf("make room for %s, or choose another file system", size(space.Need-space.Free))}
	case errors.As(err, &other):
		return []string{"choose another directory, --keep to leave them, or --force to remove them"}
	case errors.Is(err, chain.ErrOrder):
		return []string{"cat the archives oldest first; named as arguments they may come in any order"}
	case errors.As(err, &clash):
		return []string{"restore on a file system that tells these names apart, or some of them with --only"}
	case errors.Is(err, chain.ErrUnsafe):
		return []string{"the archive did not come from tarvm as it is, or was tampered with; nothing was restored"}
	case errors.Is(err, manifest.ErrVersion):
		return []string{"a later version of tarvm wrote it, and can read it; so can tar, and the script .tarvm/restore.py in it"}
	case errors.Is(err, archive.ErrTruncated):
		return []string{"it was not written or not copied to its end: copy it again, or pack again"}
	case errors.Is(err, ova.ErrTruncated):
		return []string{"it was not written or not copied to its end: get the package again"}
	case errors.Is(err, ova.ErrCorrupt):
		return []string{"the package is damaged: get it again"}
	case errors.Is(err, ovf.ErrDigest), errors.Is(err, ova.ErrSize), errors.Is(err, ova.ErrNotListed):
		return []string{"tarvm ovf verify PACKAGE names all that is damaged; get the package again"}
	case errors.Is(err, ovf.ErrSignature):
		return []string{"the manifest is not the one that was signed: get the package from whoever signed it"}
	case errors.Is(err, ova.ErrLimit):
		return []string{"it is far more than any machine needs; nothing was written"}
	case errors.Is(err, ovf.ErrUnsafe):
		return []string{"a name leads out of the package: whoever made it made a mistake, or tampered with it; nothing was written"}
	case inPackage(err):
		return []string{"it is damaged: get it again"}
	case errors.Is(err, formats.ErrCorrupt):
		return []string{"tarvm image check IMAGE names all that is damaged"}
	case errors.Is(err, archive.ErrCorrupt), errors.Is(err, manifest.ErrCorrupt), exitCode(err) == exitCorrupt && !errors.Is(err, errUnverified):
		return []string{"tarvm verify ARCHIVE names all that is damaged; restore from another copy"}
	case errors.Is(err, archive.ErrForeign):
		return []string{"tarvm unpack and tarvm list take any tar; everything else needs an archive that tarvm pack made"}
	case errors.Is(err, target.ErrNoMachine):
		return []string{"a machine is a .vmx, .vbox, domain XML, xl.cfg or .ovf with its disks, a package, or a disk with --memory and --cpus"}
	case errors.Is(err, target.ErrSeveral):
		return []string{"--system ID says which"}
	case errors.Is(err, machine.ErrSyntax), errors.Is(err, ovf.ErrSyntax):
		return []string{"whatever wrote the file, or edited it last, left it like that: mend it, or take its last backup"}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return []string{"make room, or choose another file system; what was there before is as it was"}
	case errors.Is(err, syscall.EROFS):
		return []string{"it can be read, but nothing can be written there: mount it for writing, or choose another place"}
	case leadsOut(err):
		return []string{"a symbolic link leads out of the directory, of which nothing outside is read: put the file itself there"}
	case errors.Is(err, fs.ErrPermission):
		return []string{"run it as a user who may, for example the owner of the files"}
	}
	return nil
}

// repoHints says what the user can do about errors of repositories.
func repoHints(err error) []string {
	var (
		unsaved *repo.UnsavedError
		offline *repo.OfflineError
		broken  *repo.BrokenError
		busy    *repo.BusyError
		overlap *repo.OverlapError
	)
	switch {
	case errors.As(err, &unsaved):
		return unsavedHint(err)
	case errors.As(err, &offline) && offline.Place != nil:
		return []string{
			fmt.Sprintf("make %s available; where it is somewhere else now: tarvm repo relocate --to DIR --name %s", quoted(offline.Place.Dir), platform.Quote(offline.Place.Name)),
			"--search DIR looks in a further directory this time",
		}
	case errors.As(err, &offline):
		return []string{"--search DIR looks for it in a directory; back in its folder in the repository it is found, too"}
	case errors.As(err, &broken):
		return []string{"tarvm import adds the archive that is missing, if you have it in a file; tarvm repo check lists what else is missing"}
	case errors.As(err, &busy):
		return []string{"try again later; --lock-wait 10m waits for longer"}
	case errors.As(err, &overlap):
		return []string{"repositories and machines have directories of their own, neither in the other"}
	case errors.Is(err, repo.ErrVersion):
		return []string{"a later version of tarvm made it, and can use it; its archives can be read by this one, and by tar"}
	case errors.Is(err, repo.ErrCorrupt) && !errors.Is(err, errUnverified):
		return []string{"tarvm repo check --read names all that is damaged; what does not build on it is not affected"}
	case errors.Is(err, repo.ErrNoEntry):
		return []string{"tarvm log lists the entries that there are now"}
	case errors.Is(err, vmdir.ErrInterrupted):
		return []string{"tarvm restore, or tarvm unpack where that was it, completes it: the same command again"}
	}
	return nil
}

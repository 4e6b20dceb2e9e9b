package catalogue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
)

// OpenOptions are those of Open. The zero value will do.
type OpenOptions struct {
	HTTP
	MaxSize int64 // bytes of the catalogue; 0: 16 MiB
}

// Open reads a catalogue from a path, or a file, http or https URL. Its Base is where it was found, after redirects.
// Errors name the place. See Decode for those about its content; *StatusError, *RedirectError, *SizeError and
// ErrStalled are about servers.
func Open(ctx context.Context, where string, o OpenOptions) (*Catalogue, error) {
	p, err := ParsePlace(where)
	if err != nil {
		return nil, err
	}
	if o.MaxSize <= 0 {
		o.MaxSize = 16 << 20
	}
	var b []byte
	var base Place
	if p.URL != nil {
		b, base, err = load(ctx, p, &o)
	} else {
		b, base, err = read(ctx, p, o.MaxSize)
	}
	if err != nil {
		return nil, named(p, err)
	}
	c, err := Decode(b)
	if err != nil {
		return nil, named(p, err)
	}
	c.Base = base
	return c, nil
}

// named adds the place to an error that does not name it.
func named(p Place, err error) error {
	var pe *fs.PathError
	if err == nil || errors.As(err, &pe) || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%v: %w", p, err)
}

func load(ctx context.Context, p Place, o *OpenOptions) (b []byte, base Place, err error) {
	h := o.withDefaults()
	for patience := (patience{h: &h}); ; {
		err = h.get(ctx, p.URL, make(http.Header), func(resp *http.Response) error {
			u := *resp.Request.URL
			u.Fragment, u.RawFragment = "", ""
			base = Place{URL: &u}
			b, err = readMost(resp.Body, o.MaxSize)
			return err
		})
		if err == nil {
			return b, base, nil
		}
		if err = patience.after(ctx, err, false); err != nil {
			return nil, Place{}, err
		}
	}
}

func readMost(r io.Reader, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = &SizeError{Want: most, Got: -1}
	}
	return b, err
}

func read(ctx context.Context, p Place, most int64) (b []byte, base Place, err error) {
	if err := ctx.Err(); err != nil {
		return nil, Place{}, err
	}
	// Where the catalogue is was said by the user, so that any link may lead to it; its files are where it leads.
	name, err := filepath.EvalSymlinks(p.String())
	if err != nil {
		return nil, Place{}, err
	}
	f, err := openRegular(name, os.Stat, os.Open)
	if err != nil {
		return nil, Place{}, err
	}
	defer f.Close()
	b, err = readMost(f, most)
	return b, Place{Dir: filepath.Dir(name), Name: filepath.Base(name)}, err
}

// openRegular opens a regular file. It looks before: opening a FIFO would wait for somebody who writes.
func openRegular(name string, stat func(string) (fs.FileInfo, error), open func(string) (*os.File, error)) (*os.File, error) {
	st, err := stat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	if st, err = f.Stat(); err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

var errNotRegular = errors.New("is not a regular file")

// open opens a file of this machine below its directory.
func (p Place) open() (*os.File, error) {
	root, err := os.OpenRoot(p.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := openRegular(filepath.FromSlash(p.Name), root.Stat, root.Open)
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return nil, &fs.PathError{Op: "open", Path: p.String(), Err: pe.Err}
	}
	return f, err
}

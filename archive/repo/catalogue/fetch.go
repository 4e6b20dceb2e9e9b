package catalogue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"tarvm/archive/vmdir"
	"tarvm/delta"
)

// FetchOptions are those of Fetch. The zero value will do.
type FetchOptions struct {
	HTTP
	Overwrite bool // a file that has the name already; else it is an error, unless it is what is wanted
	// Progress, unless it is nil, is told how many bytes of the file are there, of how many. It starts anew when
	// the file does.
	Progress func(done, total int64)
}

// Fetched says what Fetch did.
type Fetched struct {
	Path     string `json:"path"`
	Present  bool   `json:"present,omitempty"`  // it was there already
	Resumed  int64  `json:"resumed,omitempty"`  // bytes that an earlier call had brought
	Received int64  `json:"received,omitempty"` // bytes that came, also those that came again
	Restarts int    `json:"restarts,omitempty"` // how often what was there could not be used
	Cloned   bool   `json:"cloned,omitempty"`   // it shares its blocks with the file that it is a copy of
}

// Fetch fetches a file of the catalogue and what belongs beside it into a directory, under their own names, one after
// the other. Progress counts all of them as one.
func (c *Catalogue) Fetch(ctx context.Context, f *File, dir string, o FetchOptions) ([]Fetched, error) {
	blobs := []*Blob{&f.Blob}
	for i := range f.With {
		blobs = append(blobs, &f.With[i])
	}
	var list []Fetched
	var before int64
	for _, b := range blobs {
		p, err := c.Place(b)
		if err != nil {
			return list, err
		}
		// The catalogue was checked when it was read; on Windows some names that are left are devices.
		if n := b.FileName(); !validFileName(n) || !filepath.IsLocal(n) {
			return list, fmt.Errorf("%.100q is not a name for a file", n)
		}
		one := o
		if o.Progress != nil {
			one.Progress = func(done, _ int64) { o.Progress(before+done, f.Total()) }
		}
		r, err := Fetch(ctx, p, b, filepath.Join(dir, b.FileName()), one)
		if err != nil {
			return list, err
		}
		before += b.Size
		list = append(list, r)
	}
	return list, nil
}

// Fetch makes dst the file that a blob describes, from a place, which needs not be that of its URL. dst appears when
// it is complete, has the right size and digests, and is on disk. Until then there is dst.part, which a later call goes
// on with; dst.part.json says what it is. While a call works on it others fail with an error that is vmdir.ErrClaimed.
//
// When ctx ends, the error is its cause. Others: *DigestError, and *SizeError if the content was too long or short, after
// which nothing is kept; *SizeError of a server that announces another size; *StatusError, *RedirectError, ErrStalled,
// and those of the network, after the retries; *SpaceError; *ForeignPartError; and fs.ErrExist. Errors name the place or
// the file.
func Fetch(ctx context.Context, from Place, b *Blob, dst string, o FetchOptions) (Fetched, error) {
	r := Fetched{Path: dst}
	if from.URL != nil && !b.Digests.Strong() {
		return r, fmt.Errorf("%v: %w: no sha256, sha512 or blake3 of it is known", from, ErrInvalid)
	}
	if b.Size < 1 || b.Size > maxSize {
		return r, fmt.Errorf("%v: %w: no size of it is known", from, ErrInvalid)
	}
	var p *part
	for p == nil {
		var err error
		if r.Present, err = present(dst, b, o.Overwrite, func(rd io.Reader) error { return drain(ctx, rd) }); err != nil || r.Present {
			return r, err
		}
		if p, err = openPart(dst); err != nil {
			return r, err
		}
		if _, err := os.Lstat(dst); p != nil && err == nil && !o.Overwrite {
			p.drop() // another one has just finished with it
			p = nil
		}
	}
	d := &fetch{from: from, want: b, part: p, sum: newHasher(&b.Digests), o: o, r: &r, buf: make([]byte, bufferSize)}
	d.o.HTTP = o.withDefaults()
	err := d.run(ctx)
	var digest *DigestError
	switch {
	case err == nil:
		err = p.finish()
	case d.bad, errors.As(err, &digest):
		p.drop()
	default:
		p.keep()
	}
	return r, err
}

const (
	// bufferSize is what is written at once. 64 KiB to 1 MiB were the same with a server on this machine.
	bufferSize = 256 << 10
	// enough is how much is waited for before it is written: what a kill can lose.
	enough = 64 << 10
	// writeback is how much is sent to disk at a time, so that the sync at the end has little to wait for.
	writeback = 16 << 20
	// goodProgress is what an attempt must bring for the ones before it to be forgiven.
	goodProgress = 256 << 10
)

// drain reads all of r, as long as ctx lasts.
func drain(ctx context.Context, r io.Reader) error {
	buf := make([]byte, bufferSize)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := r.Read(buf); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

type fetch struct {
	from Place
	want *Blob
	part *part
	sum  *hasher // of the first off bytes
	o    FetchOptions
	r    *Fetched
	buf  []byte

	off    int64 // how much of the part is good, and its size
	behind int64 // of this, what goes to disk already
	joined bool  // it was put together from several answers
	whole  bool  // the next request is for all of it
	bad    bool  // what came is not what is wanted
}

func (d *fetch) run(ctx context.Context) error {
	if d.from.URL == nil {
		if err := d.truncate(); err != nil {
			return err
		}
		return d.copy(ctx)
	}
	if err := d.resume(ctx); err != nil {
		return err
	}
	for again := false; ; again = true {
		if err := d.download(ctx); err != nil {
			return named(d.from, err)
		}
		err := d.sum.check()
		if err == nil {
			return nil
		}
		if !d.joined || again {
			return named(d.from, err)
		}
		// The server had another version meanwhile and did not say so, or what was here was damaged.
		if err := d.restart(); err != nil {
			return err
		}
	}
}

// resume takes up what an earlier call has left.
func (d *fetch) resume(ctx context.Context) error {
	st, err := d.part.f.Stat()
	if err != nil {
		return err
	}
	if s := d.part.state; s == nil || !s.same(d.want) || st.Size() > d.want.Size {
		if st.Size() > 0 {
			d.r.Restarts++
		}
		return d.truncate()
	}
	if err := drain(ctx, io.TeeReader(io.NewSectionReader(d.part.f, 0, st.Size()), d.sum)); err != nil {
		return err
	}
	d.off, d.behind, d.joined = st.Size(), st.Size(), st.Size() > 0
	d.r.Resumed = d.off
	d.report()
	return nil
}

func (d *fetch) truncate() error {
	d.off, d.behind, d.joined, d.r.Resumed = 0, 0, false, 0
	d.sum.reset()
	return d.part.f.Truncate(0)
}

// restart begins again, with a request for the whole.
func (d *fetch) restart() error {
	d.r.Restarts++
	d.whole = true
	return d.truncate()
}

func (d *fetch) report() {
	if d.o.Progress != nil {
		d.o.Progress(d.off, d.want.Size)
	}
}

// space asks whether the rest fits, so that this is known before hours of receiving.
func (d *fetch) space() error {
	dir := filepath.Dir(d.part.dst)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	free, err := vmdir.FreeSpace(root)
	if err == nil && d.want.Size-d.off > free {
		return &SpaceError{Dir: dir, Need: d.want.Size - d.off, Free: free}
	}
	return nil // it is a help only
}

// download makes requests until the part is complete.
func (d *fetch) download(ctx context.Context) error {
	if err := d.space(); err != nil {
		return err
	}
	most := d.off // an attempt that starts over has made progress when it gets farther than those before
	for patience := (patience{h: &d.o.HTTP}); d.off < d.want.Size; {
		err := d.attempt(ctx)
		if d.off == d.want.Size && err == nil {
			break
		}
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		var local *localError
		if errors.As(err, &local) {
			return local.err
		}
		progress := d.off >= most+goodProgress
		most = max(most, d.off)
		if err := patience.after(ctx, err, progress); err != nil {
			return err
		}
	}
	return nil
}

// localError is one of this machine, which another request does not help with.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }

// errRange: the server's answer to a request for a range is of no use.
var errRange = errors.New("the server does not give the part that is missing")

// attempt makes one request and takes what comes.
func (d *fetch) attempt(ctx context.Context) error {
	// What a server encodes on the way cannot be asked for from the middle.
	header := http.Header{"Accept-Encoding": {"identity"}}
	ranged := d.off > 0 && !d.whole
	d.whole = false
	if ranged {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.off))
		if s := d.part.state; s != nil && s.URL == d.from.String() {
			// A weak tag says that versions are as good as each other, not that they are the same bytes.
			if tag := s.ETag; tag != "" && !strings.HasPrefix(tag, "W/") {
				header.Set("If-Range", tag)
			} else if s.LastModified != "" {
				header.Set("If-Range", s.LastModified)
			}
		}
	}
	return d.o.get(ctx, d.from.URL, header, func(resp *http.Response) error {
		if resp.StatusCode == http.StatusOK {
			return d.takeWhole(ctx, resp)
		}
		if resp.StatusCode != http.StatusPartialContent || !ranged {
			d.whole = true
			return errRange
		}
		return d.takeRest(ctx, resp)
	})
}

func (d *fetch) takeWhole(ctx context.Context, resp *http.Response) error {
	// What is here stays: it may be a page that asks for a password, instead of the file.
	if n := resp.ContentLength; n >= 0 && n != d.want.Size {
		return &SizeError{Want: d.want.Size, Got: n, Encoding: encoding(resp)}
	}
	if d.off > 0 { // another version, or a server that has no ranges
		d.r.Restarts++
	}
	if err := d.truncate(); err != nil {
		return &localError{err}
	}
	err := d.part.save(&state{URL: d.from.String(), Size: d.want.Size, Digests: d.want.Digests,
		ETag: short(resp.Header.Get("ETag")), LastModified: short(resp.Header.Get("Last-Modified"))})
	if err != nil {
		return &localError{err}
	}
	return d.receive(ctx, resp)
}

// short leaves out what is too long to be sent back.
func short(s string) string {
	if len(s) > 1<<10 {
		return ""
	}
	return s
}

func encoding(resp *http.Response) string {
	if e := resp.Header.Get("Content-Encoding"); e != "identity" {
		return e
	}
	return ""
}

func (d *fetch) takeRest(ctx context.Context, resp *http.Response) error {
	start, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
	tag, had := resp.Header.Get("ETag"), ""
	if s := d.part.state; s != nil && s.URL == d.from.String() {
		had = s.ETag
	}
	if !ok || start != d.off || tag != "" && had != "" && tag != had {
		d.whole = true
		return errRange
	}
	if total >= 0 && total != d.want.Size {
		return &SizeError{Want: d.want.Size, Got: total, Encoding: encoding(resp)}
	}
	d.joined = true
	return d.receive(ctx, resp)
}

// parseContentRange reads "bytes FIRST-LAST/TOTAL"; total is -1 for an asterisk.
func parseContentRange(s string) (start, total int64, ok bool) {
	rest, isBytes := strings.CutPrefix(s, "bytes ")
	span, of, ok1 := strings.Cut(strings.TrimSpace(rest), "/")
	first, last, ok2 := strings.Cut(span, "-")
	if !isBytes || !ok1 || !ok2 {
		return 0, 0, false
	}
	start, err1 := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	total = -1
	var err3 error
	if of != "*" {
		total, err3 = strconv.ParseInt(of, 10, 64)
	}
	ok = errors.Join(err1, err2, err3) == nil && start >= 0 && end >= start && (of == "*" || total > end)
	return start, total, ok
}

// receive appends a body to the part.
func (d *fetch) receive(ctx context.Context, resp *http.Response) error {
	for d.off < d.want.Size {
		n, rerr := 0, error(nil)
		for want := min(int64(len(d.buf)), d.want.Size-d.off); int64(n) < min(want, enough) && rerr == nil; {
			var m int
			m, rerr = resp.Body.Read(d.buf[n:want])
			n += m
		}
		d.r.Received += int64(n)
		if err := d.append(d.buf[:n]); err != nil {
			return &localError{err}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if rerr != nil && d.off < d.want.Size {
			switch e := encoding(resp); {
			case !errors.Is(rerr, io.EOF):
				return rerr
			case e != "":
				d.bad = true
				return &SizeError{Want: d.want.Size, Got: d.off, Encoding: e}
			}
			return io.ErrUnexpectedEOF
		}
	}
	// One more byte than there should be is not written, but it is looked for: the end of the body may be long in coming.
	var more [1]byte
	if n, _ := io.ReadFull(resp.Body, more[:]); n > 0 {
		d.bad = true
		return &SizeError{Want: d.want.Size, Got: -1, Encoding: encoding(resp)}
	}
	return nil
}

// append writes to the part. What is all zeros becomes a hole where the file system has them.
func (d *fetch) append(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	end := d.off + int64(len(p))
	if len(p) >= 4<<10 && delta.IsZero(p) {
		if err := d.part.f.Truncate(end); err != nil {
			return err
		}
	} else if _, err := d.part.f.WriteAt(p, d.off); err != nil {
		// The part is as long as what it holds, also after the disk was full.
		return errors.Join(err, d.part.f.Truncate(d.off))
	}
	_, _ = d.sum.Write(p)
	if d.off = end; end-d.behind >= writeback {
		vmdir.StartWriteback(d.part.f, d.behind, end-d.behind)
		d.behind = end
	}
	d.report()
	return nil
}

// copy makes the part of a file of this machine.
func (d *fetch) copy(ctx context.Context) error {
	src, err := d.from.open()
	if err != nil {
		return err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if st.Size() != d.want.Size {
		return named(d.from, &SizeError{Want: d.want.Size, Got: st.Size()})
	}
	if err := d.part.save(&state{URL: d.from.String(), Size: d.want.Size, Digests: d.want.Digests}); err != nil {
		return err
	}
	err = vmdir.CloneRange(d.part.f, src, 0, 0, d.want.Size)
	if d.r.Cloned = err == nil; err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	from := src
	if d.r.Cloned {
		from = d.part.f // what is digested is what stays
	} else if err := d.space(); err != nil {
		return err
	}
	for d.off < d.want.Size {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := from.ReadAt(d.buf[:min(int64(len(d.buf)), d.want.Size-d.off)], d.off)
		if n == 0 {
			return named(d.from, cmp.Or(err, io.ErrUnexpectedEOF))
		}
		if !d.r.Cloned {
			if err := d.append(d.buf[:n]); err != nil {
				return err
			}
			d.r.Received += int64(n)
			continue
		}
		_, _ = d.sum.Write(d.buf[:n])
		d.off += int64(n)
		d.report()
	}
	return named(d.from, d.sum.check())
}

package ova

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/beevik/etree"

	"tarvm/ovf"
)

// What Verify finds beside a wrong digest (ovf.ErrDigest) and a missing file (fs.ErrNotExist); test with errors.Is.
var (
	// ErrNotListed: there is a manifest, and it has no digest of a file that the envelope refers to.
	ErrNotListed = errors.New("not in the manifest")
	// ErrSize: a file has not the size that the envelope gives.
	ErrSize = errors.New("file does not have its size")
)

// A Result is what Verify found out about one file.
type Result struct {
	Name string
	Size int64 // bytes, as stored; -1: there is no such file
	// Digests are the algorithms by which the manifest's lines agree with the file.
	Digests []ovf.Algorithm
	// Problems wrap ovf.ErrDigest, ovf.ErrUnsupported, ErrNotListed, ErrSize, fs.ErrNotExist or ErrCorrupt.
	Problems []error
}

// A Verification is what Verify found out.
type Verification struct {
	// Files are those that the manifest or the envelope names, in the order in which they are stored; missing ones last.
	Files []Result
	// Manifest: there is one. Without it nothing but sizes was compared.
	Manifest bool
	// Signature says who signed the manifest; nil: there is no certificate, or one that cannot be read.
	Signature *ovf.Signature
	// SignatureErr is what is wrong with the certificate; nil if it is right or there is none. It wraps ovf.ErrSignature
	// when the manifest was changed after it was signed.
	SignatureErr error
}

// Err joins all problems, each with the name of its file; nil if there is none.
func (v *Verification) Err() error {
	var list []error
	for _, f := range v.Files {
		list = append(list, f.Problems...)
	}
	return errors.Join(append(list, v.SignatureErr)...)
}

// VerifyOptions say how a package is verified.
type VerifyOptions struct {
	// Progress is told how many bytes of the total were compared; nil: nobody.
	Progress func(done, total int64)
	// Roots are the authorities that are trusted for the certificate. nil: it is compared with none, and the result says
	// so.
	Roots *x509.CertPool
	// Now is for the validity of certificates; zero: the time of the call.
	Now time.Time
}

// Verify compares every file with the manifest's digests of it and with the envelope's size, and the manifest with its
// certificate. Every byte is read once. The error is that of the context, or of reading the package; what is wrong with
// the package is in the Verification.
func (p *Package) Verify(ctx context.Context, o VerifyOptions) (*Verification, error) {
	v := &Verification{Manifest: p.Manifest.Name != ""}
	var lines []ovf.Digest
	if v.Manifest {
		var err error
		if lines, err = ovf.ReadDigests(bytes.NewReader(p.Manifest.Data)); err != nil {
			return nil, fmt.Errorf("%s: %w", p.Manifest.Name, err)
		}
	}
	if p.Certificate.Name != "" {
		v.Signature, v.SignatureErr = p.signature(o)
	}
	digests := make(map[string][]ovf.Digest)
	var absent []string
	for _, d := range lines {
		name, ok := p.listed(d.Name)
		if !ok && digests[name] == nil {
			absent = append(absent, name)
		}
		digests[name] = append(digests[name], d)
	}
	sizes := make(map[string]int64) // of referenced files, by the name that FS shows
	refs := map[string]bool{p.Envelope.Name: true}
	for _, f := range p.References {
		name, ok := p.Resolve(f)
		if !ok {
			name, _ = f.Name()
			if p.files[name] == nil {
				continue
			}
		}
		refs[name] = true
		if f.Size >= 0 {
			sizes[name] = f.Size
		}
	}
	var jobs []*job
	total := int64(0)
	for i := range p.Members {
		name, ok := p.relative(p.Members[i].Path)
		if !ok {
			continue
		}
		if refs[name] || digests[name] != nil {
			j := &job{name: name, content: p.Members[i].content, lines: digests[name], listed: refs[name], size: -1}
			if n, ok := sizes[name]; ok {
				j.size = n
			}
			jobs = append(jobs, j)
		}
	}
	for _, f := range p.References {
		name, err := f.Name()
		show := p.files[name]
		if err != nil || show == nil || len(show.parts) == 0 {
			continue
		}
		// Its parts have digests, or it has one as a whole, or both, and then it is read twice.
		if digests[name] != nil {
			jobs = append(jobs, &job{name: name, content: show.raw, lines: digests[name], size: f.Size})
			continue
		}
		for _, part := range show.parts {
			if i := slices.IndexFunc(jobs, func(j *job) bool { return j.name == part }); i >= 0 {
				jobs[i].listed = true
			} else {
				jobs = append(jobs, &job{name: part, content: p.stored[part], listed: true, size: -1})
			}
		}
		if f.Size >= 0 && show.raw.size != f.Size {
			v.Files = append(v.Files, Result{Name: name, Size: show.raw.size, Problems: []error{sizeError(name, show.raw.size, f.Size)}})
		}
	}
	for _, j := range jobs {
		total += j.content.size
	}
	done := int64(0)
	for _, j := range jobs {
		r, err := j.verify(ctx, func(n int64) {
			if o.Progress != nil {
				o.Progress(done+n, total)
			}
		}, v.Manifest)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", j.name, err)
		}
		done += j.content.size
		v.Files = append(v.Files, r)
	}
	for _, name := range absent {
		v.Files = append(v.Files, Result{Name: name, Size: -1, Problems: []error{&MissingError{Name: name, Users: []string{"the manifest"}}}})
	}
	for _, e := range p.Missing() {
		v.Files = append(v.Files, Result{Name: e.Name, Size: -1, Problems: []error{e}})
	}
	return v, nil
}

// listed returns the name of the file that a line of the manifest means, and whether there is one.
func (p *Package) listed(name string) (string, bool) {
	clean, err := cleanName(name)
	if err != nil {
		return name, false
	}
	for _, n := range []string{clean, path.Base(clean)} {
		if p.stored[n] != nil || p.files[n] != nil {
			return n, true
		}
	}
	// Some write names as the envelope does, escaped.
	if n, err := (ovf.File{Href: name}).Name(); err == nil && p.stored[n] != nil {
		return n, true
	}
	return clean, false
}

func (p *Package) signature(o VerifyOptions) (*ovf.Signature, error) {
	c, err := ovf.ReadCertificate(p.Certificate.Data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Certificate.Name, err)
	}
	s, err := c.Verify(p.Manifest.Data, ovf.SignatureOptions{Roots: o.Roots, Now: o.Now})
	if err != nil {
		return s, fmt.Errorf("%s: %w", p.Certificate.Name, err)
	}
	return s, nil
}

// A job is one stored file to be read.
type job struct {
	name    string
	content *content
	lines   []ovf.Digest
	listed  bool  // the manifest must have it
	size    int64 // that it should have; -1: any
}

func (j *job) verify(ctx context.Context, progress func(int64), manifest bool) (Result, error) {
	res := Result{Name: j.name, Size: j.content.size}
	if j.size >= 0 && j.size != j.content.size {
		res.Problems = append(res.Problems, sizeError(j.name, j.content.size, j.size))
	}
	if len(j.lines) == 0 {
		if manifest && j.listed {
			res.Problems = append(res.Problems, fmt.Errorf("%s: %w", j.name, ErrNotListed))
		}
		return res, nil
	}
	sums := make(map[ovf.Algorithm]hash.Hash)
	var w []io.Writer
	for _, d := range j.lines {
		if h := d.Algorithm.New(); h != nil && sums[d.Algorithm] == nil {
			sums[d.Algorithm] = h
			w = append(w, h)
		}
	}
	r, err := j.content.reader()
	if err != nil {
		return res, err
	}
	defer r.Close()
	n, err := io.CopyBuffer(io.MultiWriter(w...), &counting{r: stopReader{ctx, r}, f: progress}, make([]byte, 256<<10))
	switch {
	case ctx.Err() != nil:
		return res, ctx.Err()
	case err != nil:
		return res, damage(err)
	case n != j.content.size:
		return res, fmt.Errorf("%w: %d bytes of %d", ErrCorrupt, n, j.content.size)
	}
	for _, d := range j.lines {
		h := sums[d.Algorithm]
		if h == nil {
			res.Problems = append(res.Problems, fmt.Errorf("%s: digest %.20q: %w", j.name, d.Algorithm, ovf.ErrUnsupported))
			continue
		}
		if got := h.Sum(nil); !bytes.Equal(got, d.Sum) {
			res.Problems = append(res.Problems, &ovf.DigestError{Name: j.name, Algorithm: d.Algorithm, Want: d.Sum, Got: got})
			continue
		}
		res.Digests = append(res.Digests, d.Algorithm)
	}
	return res, nil
}

func sizeError(name string, has, want int64) error {
	return fmt.Errorf("%s: %w: it has %d bytes, the envelope says %d", name, ErrSize, has, want)
}

// attr returns an attribute by its name in any namespace.
func attr(list []etree.Attr, name string) string {
	for _, a := range list {
		if strings.EqualFold(a.Key, name) {
			return a.Value
		}
	}
	return ""
}

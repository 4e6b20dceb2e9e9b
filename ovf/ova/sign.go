package ova

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"tarvm/ovf"
)

// ErrNoManifest: there is nothing that could be signed.
var ErrNoManifest = errors.New("the package has no manifest")

// Sign writes a package as an OVA with its envelope and manifest as they are, a new certificate behind them, and then all
// other members as they are stored, with their times; that of the certificate is the newest of these. What it signs should
// have been verified. It closes w.
//
// Errors: ErrNoManifest; ErrName for a member whose name is not for an OVA; ovf.ErrUnsupported for a manifest in an
// algorithm that is not known.
func Sign(ctx context.Context, p *Package, w *Writer, s *ovf.Signer) error {
	cert, name, err := Certificate(p, s)
	if err != nil {
		return err
	}
	for i, t := range []Text{p.Envelope, p.Manifest, {Name: name, Data: cert}} {
		at := p.Newest()
		for _, m := range p.Members {
			if rel, ok := p.relative(m.Path); ok && i < 2 && rel == t.Name {
				at = m.Time
			}
		}
		w.SetTime(at)
		if err := w.Next(t.Name, int64(len(t.Data))); err != nil {
			return err
		}
		if _, err := w.Write(t.Data); err != nil {
			return err
		}
	}
	for i := range p.Members {
		m := &p.Members[i]
		rel, ok := p.relative(m.Path)
		if ok && (rel == p.Envelope.Name || rel == p.Manifest.Name || rel == p.Certificate.Name) {
			continue
		}
		if !ok {
			rel = m.Path
		}
		if err := p.copyMember(ctx, w, rel, m); err != nil {
			return err
		}
	}
	return w.Close()
}

func (p *Package) copyMember(ctx context.Context, w *Writer, name string, m *Member) error {
	r, err := m.content.reader()
	if err != nil {
		return err
	}
	defer r.Close()
	w.SetTime(m.Time)
	if err := w.Next(name, m.content.size); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// Certificate returns the content of the .cert file for the manifest of a package, and its name.
func Certificate(p *Package, s *ovf.Signer) (cert []byte, name string, err error) {
	if p.Manifest.Name == "" {
		return nil, "", ErrNoManifest
	}
	lines, err := ovf.ReadDigests(bytes.NewReader(p.Manifest.Data))
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", p.Manifest.Name, err)
	}
	algorithm := ovf.SHA256
	if len(lines) > 0 {
		algorithm = lines[0].Algorithm
	}
	name = strings.TrimSuffix(p.Manifest.Name, path.Ext(p.Manifest.Name)) + ".cert"
	cert, err = s.Sign(algorithm, p.Manifest.Name, p.Manifest.Data)
	return cert, name, err
}

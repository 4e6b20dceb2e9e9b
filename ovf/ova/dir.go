package ova

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"tarvm/formats/machine/xmldoc"
	"tarvm/ovf"
)

func (p *Package) openDir(fsys fs.FS) error {
	p.Container = Directory
	dir := "."
	if p.opts.Envelope != "" {
		name, err := cleanName(p.opts.Envelope)
		if err != nil {
			return err
		}
		dir = path.Dir(name)
	}
	list, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return err
	}
	if len(list) > maxMembers {
		return fmt.Errorf("%w: %d files", ErrLimit, len(list))
	}
	seen := make(map[string]bool)
	add := func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		// Before it is opened: to open a FIFO waits for a writer.
		st, err := fs.Stat(fsys, name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
			return nil // a dangling link, a directory, something of another program
		}
		if err != nil {
			return err
		}
		open := func() (fs.File, error) { return fsys.Open(name) }
		p.Members = append(p.Members, Member{Name: name, Path: name, Size: st.Size(), Time: st.ModTime(), content: &content{size: st.Size(), open: open}})
		return nil
	}
	for _, e := range list {
		if err := add(path.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	// What lies deeper is looked for only where the envelope says so: the directory may hold a whole disk's files.
	env, err := p.choose()
	if err != nil {
		return err
	}
	b, err := env.content.text(ovf.MaxEnvelope)
	if err != nil {
		return fmt.Errorf("%s: %w", env.Path, err)
	}
	doc, err := xmldoc.Parse("ovf", b, ovf.MaxEnvelope)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", env.Path, ovf.ErrSyntax, err)
	}
	if b, err = xmldoc.Write(doc); err != nil {
		return fmt.Errorf("%s: %w: %w", env.Path, ovf.ErrSyntax, err)
	}
	refs, err := ovf.ReadReferences(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%s: %w", env.Path, err)
	}
	for _, f := range refs {
		name, err := f.Name()
		if err != nil || !strings.Contains(name, "/") {
			continue
		}
		if f.Chunk > 0 {
			for i := 0; i < maxChunks; i++ {
				part := path.Join(dir, chunkName(name, i))
				n := len(p.Members)
				if err := add(part); err != nil {
					return err
				}
				if len(p.Members) == n {
					break
				}
			}
		}
		if err := add(path.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

package catalogue

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/zeebo/blake3"

	"tarvm/archive"
	"tarvm/archive/codec"
	"tarvm/archive/pax"
	"tarvm/formats"
	"tarvm/manifest"
)

// Known are the lists of what Describe recognises.
type Known struct {
	Codecs []codec.Codec
	Disks  []formats.Format
}

// An UnknownFormatError: what a file is cannot be told from its content, and only the caller knows.
type UnknownFormatError struct{ Path string }

func (e *UnknownFormatError) Error() string {
	return e.Path + ": is no archive of tarvm, no package and no disk image that can be recognised; a raw image must be said to be one"
}

// Measure returns size and digests of a file, with its base name as URL. It reads the file once.
func Measure(ctx context.Context, path string) (Blob, error) {
	var b Blob
	f, err := openRegular(path, os.Stat, os.Open)
	if err != nil {
		return b, err
	}
	defer f.Close()
	s, k := sha256.New(), blake3.New()
	n := counter(0)
	if err := drain(ctx, io.TeeReader(f, io.MultiWriter(s, k, &n))); err != nil {
		return b, err
	}
	b.URL, b.Size = relativeURL(filepath.Base(path)), int64(n)
	b.Digests = Digests{SHA256: hex.EncodeToString(s.Sum(nil)), BLAKE3: hex.EncodeToString(k.Sum(nil))}
	if n == 0 {
		return b, fmt.Errorf("%s: is empty", path)
	}
	return b, nil
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// Describe returns what a catalogue says about a file: size, digests, what it is and, of an archive, its entry with
// the manifest that is beside it. The URL is the base name: the file lies beside the catalogue, unless the caller says
// otherwise. format, if it is not empty, is taken for what the file is, as for raw images, which nothing tells;
// compressed files are judged by it or by their name's ending. Files that belong beside it are for the caller to add,
// by Measure.
func Describe(ctx context.Context, path, format string, known Known) (File, error) {
	f := File{Format: format}
	if err := f.recognise(path, known); err != nil {
		return f, err
	}
	var err error
	if f.Blob, err = Measure(ctx, path); err != nil {
		return f, err
	}
	if f.Entry != nil {
		switch m, err := Measure(ctx, path+".manifest"); {
		case err == nil:
			f.Entry.Manifest = &m
		case !errors.Is(err, os.ErrNotExist):
			return f, err
		}
	}
	return f, nil
}

// recognise fills in what the content says.
func (f *File) recognise(path string, known Known) error {
	file, err := openRegular(path, os.Stat, os.Open)
	if err != nil {
		return err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return err
	}
	src := io.NewSectionReader(file, 0, st.Size())
	if f.Format == "" || f.Format == "tarvm" {
		switch a, err := archive.Open(src, known.Codecs); {
		case err == nil:
			f.archived(a.Manifest().Snapshot)
			return nil
		case !errors.Is(err, archive.ErrForeign) || f.Format != "":
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	head := make([]byte, codec.HeadLen)
	n, err := src.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if c := codec.Detect(known.Codecs, head[:n]); c != nil && c.Name() != "none" {
		f.Compression = c.Name()
	}
	if f.Format == "" {
		if f.Format, err = f.formatOf(path, src, known); err != nil {
			return err
		}
	}
	if f.Kind = kindOf(f.Format); f.Kind == "" {
		f.Kind = KindDisk
	}
	return nil
}

func (f *File) archived(s *manifest.Snapshot) {
	e := &s.Entry
	f.Format, f.Kind, f.Unpacked = "tarvm", KindArchive, s.Stats.Bytes-s.Stats.Zero
	f.Entry = &Entry{Kind: e.Kind, ID: s.ID, Digest: s.Digest}
	if e.Parent != nil {
		p := *e.Parent
		f.Entry.Parent = &p
	}
}

func (f *File) formatOf(path string, src *io.SectionReader, known Known) (string, error) {
	if f.Compression != "" {
		// Only the end of some formats says what they are, so that it would have to be unpacked.
		name := strings.ToLower(filepath.Base(path))
		for _, s := range codec.ByName(known.Codecs, f.Compression).Suffixes() {
			name = strings.TrimSuffix(name, s)
		}
		name = strings.TrimSuffix(name, "."+suffixOf(f.Compression))
		switch ext := strings.TrimPrefix(filepath.Ext(name), "."); {
		case ext == "vhd":
			return "vpc", nil
		case ext != "raw" && formatRank(ext) < len(preferred):
			return ext, nil
		}
		return "", &UnknownFormatError{Path: path}
	}
	r := pax.NewReader(bufio.NewReader(io.NewSectionReader(src, 0, src.Size())), pax.ReaderOptions{})
	if h, err := r.Next(); err == nil && strings.EqualFold(filepath.Ext(h.Name), ".ovf") {
		return "ova", nil
	}
	h, err := formats.Probe(src, known.Disks)
	switch {
	case err == nil:
		return h.Format, nil
	case !errors.Is(err, formats.ErrNotFormat):
		return "", fmt.Errorf("%s: %w", path, err)
	case strings.EqualFold(filepath.Ext(path), ".ovf"):
		return "ovf", nil
	}
	return "", &UnknownFormatError{Path: path}
}

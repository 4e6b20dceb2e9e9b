package layers

import (
	"context"
	"errors"
	"slices"

	"tarvm/formats"
)

// Info describes an image.
type Info struct {
	Path        string            `json:"path"`
	Format      string            `json:"format"`
	Subformat   string            `json:"subformat,omitempty"`
	VirtualSize int64             `json:"virtual_size"`
	FileSize    int64             `json:"file_size"`      // of all files of the image
	Unit        int64             `json:"unit,omitempty"` // cluster, grain or block
	Compressed  bool              `json:"compressed,omitempty"`
	ID          string            `json:"id,omitempty"`
	Parent      *Parent           `json:"parent,omitempty"`
	Snapshots   []Snapshot        `json:"snapshots,omitempty"`
	Facts       []formats.Fact    `json:"facts,omitempty"`
	Problems    []formats.Problem `json:"problems,omitempty"`
	// Content says where the guest's bytes come from.
	Content Content `json:"content"`
	// Layers describes the image and each of its parents, if it has any.
	Layers []*Info `json:"layers,omitempty"`
}

// A Parent says what an image records of its parent.
type Parent struct {
	Names  []string `json:"names,omitempty"`
	Format string   `json:"format,omitempty"`
	ID     string   `json:"id,omitempty"`
}

// A Snapshot in an image.
type Snapshot struct {
	ID          string `json:"id"`
	Name        string `json:"name,omitempty"`
	Unix        int64  `json:"unix,omitempty"`
	VirtualSize int64  `json:"virtual_size,omitempty"`
	StateSize   int64  `json:"state_size,omitempty"` // of the saved memory
}

// Content counts guest bytes. Stored counts what compressed ones need in the file.
type Content struct {
	Data       int64 `json:"data"`
	Compressed int64 `json:"compressed"`
	Stored     int64 `json:"stored,omitempty"`
	Zero       int64 `json:"zero"`
	Hole       int64 `json:"hole"`
	Parent     int64 `json:"parent,omitempty"`
}

// Describe describes the disk's topmost image and, if it has parents, all of its
// images. It reads their maps.
func Describe(ctx context.Context, d *Disk) (*Info, error) {
	var list []*Info
	for _, l := range d.Layers {
		i, err := describe(ctx, l)
		if err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	top := *list[0]
	if len(list) > 1 {
		top.Layers = list
	}
	return &top, nil
}

func describe(ctx context.Context, l Layer) (*Info, error) {
	m := l.Image
	i := &Info{
		Path: l.Path, Format: m.Format, Subformat: m.Subformat, VirtualSize: m.Map.Size(), Unit: m.Unit,
		Compressed: m.Compressed, ID: m.ID, Facts: m.Facts, Problems: slices.Clone(m.Problems),
	}
	for _, f := range m.Files {
		i.FileSize += f.Size()
	}
	if p := m.Parent; p != nil {
		i.Parent = &Parent{Names: p.Names, Format: p.Format, ID: p.ID}
	}
	for _, s := range m.Snapshots {
		t := Snapshot{ID: s.ID, Name: s.Name, Unix: s.Unix}
		if s.Image != nil {
			t.VirtualSize = s.Image.Map.Size()
		}
		if s.State != nil {
			t.StateSize = s.State.Size()
		}
		i.Snapshots = append(i.Snapshots, t)
	}
	// Of this image alone: what is the parent's counts as that.
	d, err := formats.NewDisk(m)
	if err != nil {
		return nil, err
	}
	for e, err := range d.Extents(0, d.Size()) {
		if errors.Is(err, formats.ErrCorrupt) {
			i.Problems = append(i.Problems, formats.Problem{Severity: formats.Risk, Structure: "map", Offset: -1, Text: err.Error()})
			break
		}
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		switch e.Kind {
		case formats.Data:
			i.Content.Data += e.Length
		case formats.Compressed:
			i.Content.Compressed += e.Length
			i.Content.Stored += e.Stored
		case formats.Zero:
			i.Content.Zero += e.Length
		case formats.Hole:
			i.Content.Hole += e.Length
		case formats.Parent:
			i.Content.Parent += e.Length
		}
	}
	return i, nil
}

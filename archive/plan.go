package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tarvm/archive/codec"
	"tarvm/archive/vmdir"
	"tarvm/delta"
	"tarvm/formats"
	"tarvm/manifest"
)

// PackOptions say how to pack. The zero value of each field works, except Codec's.
type PackOptions struct {
	Codec   codec.Codec
	Level   *int // nil: the codec's default
	Workers int  // 0: as many as CPUs are usable

	Name    string // default: the directory's name
	Note    string
	Labels  map[string]string
	Project string            // of the repository that the archive is made for
	Machine *manifest.Machine // nil: not known
	Time    time.Time         // of the entry; zero: the newest modification time in the directory

	Block   int64    // bytes; 0: delta.DefaultBlock, or the parent's
	Exclude []string // patterns of vmdir.Match
	Formats []formats.Format

	Parent       *Manifest // nil: a full archive
	Differential bool      // the parent was chosen because it is the full entry of its chain
	TrustTimes   bool      // do not read files whose size, times and inode are as the parent's manifest has them
	// Seen says, with TrustTimes, how this machine saw the files when they were known to be the parent's; nil: as
	// the parent's manifest says.
	Seen  map[manifest.Path]vmdir.Identity
	Live  bool // pack although the VM seems to run
	Tries int  // how often a file that changes is read; 0: 3
	// Want is the id that the entry must get, or else there is a *StateError; zero: any.
	Want delta.Digest

	TempDir  string // for tables that do not fit in memory; "": the system's
	Progress func(Progress)
}

// Progress is what a long operation reports, now and then, from one goroutine at a time.
type Progress struct {
	Phase string // "walk", "pack", "verify", ...
	Path  string // the member at work
	Done  int64  // bytes
	Total int64  // bytes; 0: not known
}

// Action is what packing will do with a member.
type Action string

// The actions of a plan.
const (
	ActionStore   Action = "store"   // whole
	ActionCompare Action = "compare" // read, and store what differs from the parent
	ActionTrust   Action = "trust"   // taken over from the parent's manifest unread
	ActionList    Action = "list"    // no content: directory, link, FIFO
)

// A PlanItem is one member of a plan.
type PlanItem struct {
	Path   manifest.Path `json:"path"`
	Type   manifest.Type `json:"type"`
	Role   manifest.Role `json:"role,omitempty"`
	Format string        `json:"format,omitempty"`
	Size   int64         `json:"size,omitempty"`
	Action Action        `json:"action"`
}

// Skipped is a file that is not packed.
type Skipped struct {
	Path   manifest.Path `json:"path"`
	Reason string        `json:"reason"`
}

// A Plan is all that packing decided before it reads data. It is bound to its tree, and
// must be closed.
type Plan struct {
	Entry   manifest.Entry  `json:"entry"`
	Items   []PlanItem      `json:"items"`
	Skipped []Skipped       `json:"skipped,omitempty"`
	Removed []manifest.Path `json:"removed,omitempty"` // in the parent, and here no more
	Locks   []vmdir.Lock    `json:"locks,omitempty"`
	Bytes   int64           `json:"bytes"` // sizes of the files to be read, with holes
	Dir     string          `json:"dir"`   // "": it is no directory that is packed

	o       PackOptions
	tree    Tree
	grids   bool // the entries' grids stay
	entries []vmdir.Entry
	pidx    map[manifest.Path]int
}

// RunningError says that the VM seems to be running.
type RunningError struct {
	Dir   string
	Locks []vmdir.Lock
}

func (e *RunningError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: the virtual machine seems to be running:", e.Dir)
	for _, l := range e.Locks {
		fmt.Fprintf(&b, "\n  %s: %s", l.Path, l.Kind)
		if l.Owner != "" {
			fmt.Fprintf(&b, " (%s)", l.Owner)
		}
	}
	return b.String()
}

// ChangedError says that a file did not stand still.
type ChangedError struct {
	Path  manifest.Path
	Tries int
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s: the file changed while it was read, %d times in a row", e.Path, e.Tries)
}

// A StateError says that what was packed is not the state that was to be packed.
type StateError struct {
	Want, Have delta.Digest // ids
}

func (e *StateError) Error() string {
	return fmt.Sprintf("the state that was packed has the id %s, it should have %s", e.Have.Short(), e.Want.Short())
}

// MakePlan walks dir and decides what to do with each file. It reads no more than the first
// bytes of files, and the tables of disks.
func MakePlan(ctx context.Context, dir string, o PackOptions) (*Plan, error) {
	t, err := OpenDir(dir)
	if err != nil {
		return nil, err
	}
	return makePlan(ctx, t, dir, o)
}

// MakePlanOf does the same with the files of t. The plan's Close closes t; so does MakePlanOf when it returns an error.
func MakePlanOf(ctx context.Context, t Tree, o PackOptions) (*Plan, error) {
	return makePlan(ctx, t, "", o)
}

func makePlan(ctx context.Context, t Tree, dir string, o PackOptions) (*Plan, error) {
	p := &Plan{Dir: dir, o: o, tree: t}
	if err := p.make(ctx); err != nil {
		t.Close()
		return nil, err
	}
	return p, nil
}

// check looks at the options, fills in defaults, and returns the block size.
func (o *PackOptions) check() (int64, error) {
	if o.Codec == nil {
		return 0, errors.New("pack: no codec")
	}
	block := o.Block
	if o.Parent != nil {
		if block != 0 && block != o.Parent.Entry.Block {
			return 0, fmt.Errorf("block size %d: the parent has %d, and an increment must have the same", block, o.Parent.Entry.Block)
		}
		block = o.Parent.Entry.Block
	}
	if block == 0 {
		block = delta.DefaultBlock
	}
	if o.Tries == 0 {
		o.Tries = 3
	}
	return block, (delta.Grid{Block: block}).Check()
}

// Close releases the tree.
func (p *Plan) Close() error { return p.tree.Close() }

func (p *Plan) make(ctx context.Context) error {
	block, err := p.o.check()
	if err != nil {
		return err
	}
	l, err := p.tree.List(ctx, vmdir.WalkOptions{Exclude: p.o.Exclude, Formats: p.o.Formats, Block: block})
	if err != nil {
		return err
	}
	entries := l.Entries
	p.Locks, p.grids = l.Locks, l.Grids
	p.Entry = manifest.Entry{
		Tarvm: "entry", Version: manifest.Version, Kind: manifest.Full, Name: p.o.Name, Note: p.o.Note, Labels: p.o.Labels,
		Block: block, Digest: manifest.DigestName, Codec: p.o.Codec.Name(), Live: p.o.Live, Project: p.o.Project, Machine: p.o.Machine,
	}
	if p.Entry.Name == "" {
		p.Entry.Name = p.tree.Name()
	}
	if par := p.o.Parent; par != nil {
		p.Entry.Kind = manifest.Incremental
		p.Entry.Differential = p.o.Differential
		p.Entry.Parent = &manifest.Parent{ID: par.ID, Digest: par.Digest, Name: par.Entry.Name}
		p.pidx = par.Index()
	}
	var seen []bool // of the parent's members
	if p.pidx != nil {
		seen = make([]bool, len(p.o.Parent.Members))
	}
	newest := time.Unix(0, 0)
	p.entries = entries[:0] // in place: they are the most of what packing many small files takes
	for i := range entries {
		e := &entries[i]
		if e.Skipped != "" {
			p.Skipped = append(p.Skipped, Skipped{e.Path, e.Skipped})
			continue
		}
		if e.ModTime.After(newest) {
			newest = e.ModTime.Time
		}
		if j, ok := p.pidx[e.Path]; ok {
			seen[j] = true
		}
		p.entries = append(p.entries, *e)
	}
	p.Entry.Time = manifest.Time{Time: newest.UTC()}
	if !p.o.Time.IsZero() {
		p.Entry.Time = manifest.Time{Time: p.o.Time.UTC()}
	}
	if err := p.findDisks(ctx); err != nil {
		return err
	}
	p.Items = make([]PlanItem, 0, len(p.entries))
	for i := range p.entries {
		p.keepGrid(&p.entries[i])
		it := p.item(&p.entries[i])
		if it.Action == ActionStore || it.Action == ActionCompare {
			p.Bytes += it.Size
		}
		p.Items = append(p.Items, it)
	}
	if p.o.Parent != nil {
		for i := range p.o.Parent.Members {
			if !seen[i] {
				p.Removed = append(p.Removed, p.o.Parent.Members[i].Path)
			}
		}
	}
	return nil
}

// parent returns the parent's member at path, nil if there is none of that type.
func (p *Plan) parent(m *manifest.Member) *manifest.Member {
	if p.pidx == nil {
		return nil
	}
	i, ok := p.pidx[m.Path]
	if !ok || p.o.Parent.Members[i].Type != m.Type {
		return nil
	}
	return &p.o.Parent.Members[i]
}

// keepGrid keeps the grid of a file that was in the parent already: what finds the phase may
// see more in a fuller image, but blocks are compared only on the same grid.
func (p *Plan) keepGrid(e *vmdir.Entry) {
	if p.grids {
		return
	}
	if e.Type != manifest.File {
		e.SetGrid(delta.Grid{})
		return
	}
	if pm := p.parent(&e.Member); pm != nil && pm.Format == e.Format && pm.Size > p.Entry.Block {
		e.Phase, e.Stride = pm.Phase, pm.Stride
	}
	if e.Size <= p.Entry.Block {
		e.SetGrid(delta.Grid{})
	}
}

func (p *Plan) item(e *vmdir.Entry) PlanItem {
	it := PlanItem{Path: e.Path, Type: e.Type, Role: e.Role, Format: e.Format, Size: e.Size, Action: ActionList}
	if e.Type != manifest.File {
		return it
	}
	it.Action = ActionStore
	if pm := p.parent(&e.Member); pm != nil {
		it.Action = ActionCompare
		if p.o.TrustTimes && p.o.Parent.unchanged(p.pidx[e.Path], e, p.o.Seen) {
			it.Action = ActionTrust
		}
	} else if p.o.Parent != nil && e.Size >= wholeMax {
		it.Action = ActionCompare
	}
	return it
}

// Running returns the locks that forbid packing, nil if there are none.
func (p *Plan) running() []vmdir.Lock {
	return slices.DeleteFunc(slices.Clone(p.Locks), func(l vmdir.Lock) bool { return l.Stale })
}

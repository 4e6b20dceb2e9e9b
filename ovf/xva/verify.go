package xva

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"tarvm/formats"
)

// Verify reads every block of every disk and compares its digest, on all processors, and reports those that are wrong,
// in no order, one at a time; blocks without a digest are only read. progress, which may be nil, is told how many bytes
// of blocks were read by now. The error is that of the source or of ctx.
func (p *Package) Verify(ctx context.Context, report func(formats.Problem), progress func(done int64)) error {
	type piece struct {
		l *layout
		b *block
	}
	todo := make(chan piece)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(todo)
		for _, l := range p.layout {
			for i := range l.blocks {
				select {
				case todo <- piece{l, &l.blocks[i]}:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		}
		return nil
	})
	var mu sync.Mutex // held while the caller is told
	done := int64(0)
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			var buf []byte
			for t := range todo {
				if int64(cap(buf)) < t.b.size {
					buf = make([]byte, t.b.size)
				}
				buf = buf[:t.b.size]
				if _, err := readFull(p.src, buf, t.b.off); err != nil {
					return err
				}
				err := t.l.compare(t.b, buf)
				if err != nil && !errors.Is(err, formats.ErrCorrupt) {
					return err
				}
				mu.Lock()
				if err != nil {
					report(formats.Problem{
						Severity: formats.Risk, Structure: "block " + t.l.name(t.b), Offset: t.b.off,
						Guest: t.b.pos, Length: t.b.size, Text: "its digest is not that of its bytes",
					})
				}
				done += t.b.size
				if progress != nil {
					progress(done)
				}
				mu.Unlock()
			}
			return nil
		})
	}
	return g.Wait()
}

package archive

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// ordered runs the jobs that produce emits on workers goroutines, and gives their results to consume
// in the order in which they were emitted. At most depth results wait, so memory is bounded. The
// first error ends everything; all goroutines have ended when ordered returns.
func ordered[T any](ctx context.Context, workers, depth int, produce func(ctx context.Context, emit func(func() (T, error)) error) error, consume func(T) error) error {
	type result struct {
		v   T
		err error
	}
	type job struct {
		run  func() (T, error)
		done chan result
	}
	g, ctx := errgroup.WithContext(ctx)
	jobs := make(chan job)
	queue := make(chan job, depth)
	g.Go(func() error {
		defer close(jobs)
		defer close(queue)
		return produce(ctx, func(run func() (T, error)) error {
			j := job{run, make(chan result, 1)}
			for _, c := range []chan job{queue, jobs} {
				select {
				case c <- j:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			return nil
		})
	})
	for range workers {
		g.Go(func() error {
			for j := range jobs {
				v, err := j.run()
				j.done <- result{v, err}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		for j := range queue {
			select {
			case r := <-j.done:
				if r.err != nil {
					return r.err
				}
				if err := consume(r.v); err != nil {
					return err
				}
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	return g.Wait()
}

package chain

import (
	"container/list"
	"errors"
	"os"
	"sync"
)

// handles keeps a bounded number of files open. Files are named by number.
type handles struct {
	limit int
	open  func(i int32) (*os.File, error)

	mu    sync.Mutex
	files map[int32]*handle
	idle  *list.List // of *handle, longest idle first
	err   error      // of a close
}

type handle struct {
	*os.File
	i    int32
	refs int
	el   *list.Element
}

// Open files at a time: well below the usual limit of 1024 for a process.
const openFiles = 200

func newHandles(open func(i int32) (*os.File, error)) *handles {
	return &handles{limit: openFiles, open: open, files: make(map[int32]*handle), idle: list.New()}
}

// get returns file i, open until put.
func (h *handles) get(i int32) (*handle, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.files[i]
	if f == nil {
		for len(h.files) >= h.limit && h.idle.Len() > 0 {
			h.close(h.idle.Front().Value.(*handle)) //nolint:forcetypeassert // only put fills the list
		}
		file, err := h.open(i)
		if err != nil {
			return nil, err
		}
		f = &handle{File: file, i: i}
		h.files[i] = f
	}
	if f.el != nil {
		h.idle.Remove(f.el)
		f.el = nil
	}
	f.refs++
	return f, nil
}

func (h *handles) put(f *handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.refs--; f.refs == 0 {
		f.el = h.idle.PushBack(f)
	}
}

func (h *handles) close(f *handle) {
	if f.el != nil {
		h.idle.Remove(f.el)
	}
	delete(h.files, f.i)
	h.err = errors.Join(h.err, f.Close())
}

// drop closes file i if it is open and idle.
func (h *handles) drop(i int32) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.files[i]; f != nil && f.refs == 0 {
		h.close(f)
	}
	return h.err
}

// Close closes all files. Nothing may be in use.
func (h *handles) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.files {
		h.close(f)
	}
	return h.err
}

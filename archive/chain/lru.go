package chain

import (
	"container/list"
	"sync"
)

// lru keeps what was computed last, up to a total cost. It is safe for concurrent use.
type lru struct {
	mu    sync.Mutex
	max   int64
	used  int64
	order *list.List // of *lruItem, latest first
	items map[any]*list.Element
}

type lruItem struct {
	key, value any
	cost       int64
}

func newLRU(limit int64) *lru {
	return &lru{max: limit, order: list.New(), items: make(map[any]*list.Element)}
}

func (l *lru) get(key any) any {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.items[key]
	if e == nil {
		return nil
	}
	l.order.MoveToFront(e)
	return e.Value.(*lruItem).value //nolint:forcetypeassert // only put fills the list
}

func (l *lru) put(key, value any, cost int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.items[key] != nil {
		return
	}
	l.items[key] = l.order.PushFront(&lruItem{key, value, cost})
	l.used += cost
	for l.used > l.max && l.order.Len() > 1 {
		e := l.order.Back()
		it := e.Value.(*lruItem) //nolint:forcetypeassert // as above
		l.order.Remove(e)
		delete(l.items, it.key)
		l.used -= it.cost
	}
}

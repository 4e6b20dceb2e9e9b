package vmdir

import (
	"os/user"
	"strconv"
	"sync"
)

// Names remembers which users and groups the system knows, because looking one up
// reads a file. The zero value is ready. It may be used from several goroutines.
type Names struct {
	mu            sync.Mutex
	users, groups map[int64]string
	uids, gids    map[string]int64 // -1: not known here
}

// lookup returns m[k], made by get once.
func lookup[K comparable, V any](n *Names, m *map[K]V, k K, get func(K) V) V {
	n.mu.Lock()
	defer n.mu.Unlock()
	v, ok := (*m)[k]
	if !ok {
		v = get(k)
		if *m == nil {
			*m = make(map[K]V)
		}
		(*m)[k] = v
	}
	return v
}

// user returns the name of a number, "" when it has none.
func (n *Names) user(id int64) string {
	return lookup(n, &n.users, id, func(id int64) string {
		u, err := user.LookupId(strconv.FormatInt(id, 10))
		if err != nil {
			return ""
		}
		return u.Username
	})
}

func (n *Names) group(id int64) string {
	return lookup(n, &n.groups, id, func(id int64) string {
		g, err := user.LookupGroupId(strconv.FormatInt(id, 10))
		if err != nil {
			return ""
		}
		return g.Name
	})
}

// uid returns the number of a user here, other when there is none of that name.
func (n *Names) uid(name string, other int64) int64 {
	if name == "" {
		return other
	}
	id := lookup(n, &n.uids, name, func(name string) int64 {
		u, err := user.Lookup(name)
		if err != nil {
			return -1
		}
		return number(u.Uid)
	})
	if id < 0 {
		return other
	}
	return id
}

func (n *Names) gid(name string, other int64) int64 {
	if name == "" {
		return other
	}
	id := lookup(n, &n.gids, name, func(name string) int64 {
		g, err := user.LookupGroup(name)
		if err != nil {
			return -1
		}
		return number(g.Gid)
	})
	if id < 0 {
		return other
	}
	return id
}

// number parses an id; on Windows it is no number.
func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

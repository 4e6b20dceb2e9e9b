package target

import (
	"crypto/sha256"
	"fmt"

	"tarvm/formats/machine"
)

// renew gives a machine UUIDs and MAC addresses that are made of seed. What it does not have it does not get.
func renew(m *machine.Machine, seed []byte) {
	next := func(purpose string) (id [16]byte) {
		h := sha256.Sum256(append([]byte(purpose+"\x00"), seed...))
		copy(id[:], h[:])
		return random(id)
	}
	for purpose, s := range map[string]*string{"uuid": &m.UUID, "instance": &m.InstanceUUID, "generation": &m.GenerationID} {
		if *s != "" {
			*s = UUID(next(purpose))
		}
	}
	for i := range m.NICs {
		n := &m.NICs[i]
		if n.MAC == "" {
			continue
		}
		id := next(fmt.Sprintf("mac %d", i))
		n.MAC = newMAC(n.MAC, id)
		n.Generated = false
	}
}

// newMAC keeps the maker's part of an address, by which hypervisors tell their own. VMware takes addresses that were
// chosen up to 00:50:56:3f only.
func newMAC(old string, id [16]byte) string {
	if len(old) != 17 {
		return old
	}
	switch maker := old[:8]; maker {
	case "00:0c:29", "00:50:56", "00:05:69":
		return fmt.Sprintf("00:50:56:%02x:%02x:%02x", id[0]&0x3f, id[1], id[2])
	case "08:00:27", "52:54:00", "00:16:3e", "00:15:5d", "00:1c:42":
		return fmt.Sprintf("%s:%02x:%02x:%02x", maker, id[0], id[1], id[2])
	}
	// An address of nobody's, locally administered.
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", id[0], id[1], id[2], id[3], id[4])
}

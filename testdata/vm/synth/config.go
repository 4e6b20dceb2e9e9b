package main

import (
	"bytes"
	"fmt"
	"time"
)

// vmx returns the configuration: only its note and its power state differ between states.
func (g *guest) vmx(i int) []byte {
	var b bytes.Buffer
	for _, kv := range [][2]string{
		{".encoding", "UTF-8"},
		{"config.version", "8"},
		{"virtualHW.version", "19"},
		{"displayName", "web01"},
		{"guestOS", "debian12-64"},
		{"annotation", "state " + states[i].name + "|0Aa synthetic web server"},
		{"numvcpus", "2"},
		{"memsize", fmt.Sprint(len(g.memory) * blockSize >> 20)},
		{"nvram", "vm.nvram"},
		{"scsi0.present", "TRUE"},
		{"scsi0.virtualDev", "lsilogic"},
		{"scsi0:0.present", "TRUE"},
		{"scsi0:0.fileName", "vm.vmdk"},
		{"ethernet0.present", "TRUE"},
		{"ethernet0.connectionType", "nat"},
		{"ethernet0.virtualDev", "e1000"},
		{"ethernet0.addressType", "generated"},
		{"ethernet0.generatedAddress", "00:0c:29:3b:4c:5d"},
		{"uuid.bios", "56 4d 3b 0e 51 a7 4c 52-9d 5e 7c 1f 2a 3b 4c 5d"},
		{"uuid.location", "56 4d 3b 0e 51 a7 4c 52-9d 5e 7c 1f 2a 3b 4c 5d"},
		{"cleanShutdown", "FALSE"},
	} {
		fmt.Fprintf(&b, "%s = %q\n", kv[0], kv[1])
	}
	return b.Bytes()
}

// nvram returns the firmware's settings: 8684 bytes, as of VMware's BIOS, of which a clock and a counter change.
func (g *guest) nvram(i int) []byte {
	b := make([]byte, 8684)
	r := newRNG(g.seed, 'n')
	copy(b, "MRVN\x01\x00\x00\x00")
	renderRandom(b[64:256], &r)
	for at := 1024; at < 6000; at += 64 {
		b[at], b[at+1] = byte(r.next()>>40), 0xff
	}
	b[14], b[16], b[18] = byte(0x10+i), byte(0x20+7*i), byte(i)
	return b
}

// log returns the hypervisor's log up to state i: it only grows.
func (g *guest) log(i int) []byte {
	var b bytes.Buffer
	for n := range i + 1 {
		r := newRNG(g.seed, 'l', uint64(n))
		t := states[n].when
		fmt.Fprintf(&b, "%s In(05) vmx Log for VMware Workstation pid=%d version=17.5.0 option=Release\n", t.Format("2006-01-02T15:04:05.000Z"), 4000+r.below(1000))
		for range 400 {
			t = t.Add(time.Duration(1+r.below(2000)) * time.Millisecond)
			fmt.Fprintf(&b, "%s In(05) vmx %s: %s %s %d\n", t.Format("2006-01-02T15:04:05.000Z"),
				g.words.word[r.below(40)], g.words.word[r.below(400)], g.words.word[r.below(400)], r.below(100_000))
		}
	}
	return b.Bytes()
}

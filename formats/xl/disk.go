package xl

import (
	"fmt"
	"strconv"
	"strings"

	"tarvm/formats/machine"
)

// A disk is one item of the list disk: xl-disk-configuration(5).
type disk struct {
	target    string
	format    string // as written; empty: not said
	vdev      string
	access    string
	backend   string // backendtype
	script    string
	cdrom     bool
	discard   machine.Switch
	virtio    bool
	depr      bool     // a deprecated prefix stands for the format
	phy       bool     // the prefix phy:
	unknown   []string // parameters that the model has no word for
	hasTarget bool
}

// prefixes are deprecated, and libxlutil ignores all that are not a format.
var prefixes = []string{"tapdisk:", "tap2:", "tap:", "aio:", "ioemu:", "file:", "phy:"}

// parseDisk follows libxlu_disk_l.l: parameters are separated by commas; those that are neither key=value nor a word that
// is known are target, format, vdev and access in this order, each unless it has been given.
func parseDisk(s string) (disk, error) {
	var d disk
	var formatSet, vdevSet, accessSet bool
	bad := func(format string, args ...any) (disk, error) {
		return d, fmt.Errorf(format+": %w", append(args, machine.ErrSyntax)...)
	}
	once := func(to *string, set *bool, v string) error {
		if *to != "" {
			return fmt.Errorf("%q: given twice: %w", v, machine.ErrSyntax)
		}
		*to, *set = v, true
		return nil
	}
	for {
		s = strings.TrimLeft(s, " \t\n")
		if s == "" {
			break
		}
		if rest, ok := strings.CutPrefix(s, "target="); ok {
			if err := once(&d.target, &d.hasTarget, strings.TrimSuffix(rest, ",")); err != nil {
				return d, err
			}
			break
		}
		if p, rest, ok := strings.Cut(s, ":"); ok && !d.hasTarget {
			switch p {
			case "raw", "qcow", "qcow2", "vhd":
				if d.format != "" && d.format != p {
					return bad("format %q and %q", d.format, p)
				}
				d.format, formatSet, d.depr, s = p, true, true, rest
				continue
			case "iscsi", "nbd", "enbd", "drbd":
				if d.script != "" {
					return bad("script %q and %q", d.script, p)
				}
				d.script, d.depr, s = "block-"+p, true, rest
				continue
			}
			cut := false
			for _, q := range prefixes {
				if p+":" == q {
					cut = true
				}
			}
			if cut {
				d.phy = d.phy || p == "phy"
				d.depr, s = true, rest
				continue
			}
		}
		word, rest, _ := strings.Cut(s, ",")
		s = rest
		key, val, keyed := strings.Cut(word, "=")
		if keyed {
			var err error
			switch key {
			case "format":
				if d.format != "" && d.format != val {
					return bad("format %q and %q", d.format, val)
				}
				d.format, formatSet = val, true
			case "vdev":
				err = once(&d.vdev, &vdevSet, val)
			case "access":
				d.access, accessSet = val, true
			case "backendtype":
				d.backend = val
			case "script":
				if err = once(&d.script, new(bool), val); err == nil && val != "" && !strings.Contains(val, "/") && !plain(val) {
					err = fmt.Errorf("script %q: %w", val, machine.ErrSyntax)
				}
			case "devtype":
				if val != "cdrom" && val != "disk" {
					return bad("devtype %q", val)
				}
				d.cdrom = val == "cdrom"
			case "specification":
				if d.virtio = val == "virtio"; !d.virtio && val != "" {
					d.unknown = append(d.unknown, word)
				}
			default:
				if !plain(key) {
					return bad("%q", word)
				}
				d.unknown = append(d.unknown, word)
			}
			if err != nil {
				return d, err
			}
			continue
		}
		switch word {
		case "cdrom":
			d.cdrom = true
			continue
		case "discard":
			d.discard = machine.On
			continue
		case "no-discard":
			d.discard = machine.Off
			continue
		case "direct-io-safe", "colo", "no-colo", "trusted", "untrusted":
			d.unknown = append(d.unknown, word)
			continue
		}
		switch {
		case !d.hasTarget:
			d.target, d.hasTarget = word, true
		case !d.depr && !formatSet:
			if v, dev, ok := cutLast(word); ok && d.target == "" {
				if err := d.device(v, dev); err != nil {
					return d, err
				}
				formatSet, vdevSet = true, true
			} else {
				d.format, formatSet = word, true
			}
		case !vdevSet:
			if v, dev, ok := cutLast(word); ok {
				if err := d.device(v, dev); err != nil {
					return d, err
				}
			} else {
				d.vdev = word
			}
			vdevSet = true
		case !accessSet:
			d.access, accessSet = word, true
		default:
			return bad("%q: more than target, format, vdev and access", word)
		}
	}
	switch d.format {
	case "", "raw", "qcow", "qcow2", "vhd", "qed", "empty":
	default:
		return bad("format %q", d.format)
	}
	switch d.access {
	case "", "r", "ro", "w", "rw", "w!", "r!":
	default:
		return bad("access %q", d.access)
	}
	if d.vdev == "" {
		return bad("no vdev")
	}
	return d, nil
}

// plain reports whether s is a word of letters, digits, hyphens, dots and underscores.
func plain(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// device takes the deprecated form hdc:cdrom.
func (d *disk) device(vdev, kind string) error {
	if kind != "cdrom" && kind != "disk" {
		return fmt.Errorf("%q is neither cdrom nor disk: %w", kind, machine.ErrSyntax)
	}
	d.vdev, d.cdrom = vdev, kind == "cdrom"
	return nil
}

// String returns the item in the keyed form, with the target last: it may have commas.
func (d *disk) String() string {
	var p []string
	add := func(k, v string) {
		if v != "" {
			p = append(p, k+"="+v)
		}
	}
	add("format", d.format)
	add("vdev", d.vdev)
	add("access", d.access)
	add("backendtype", d.backend)
	add("script", d.script)
	if d.cdrom {
		add("devtype", "cdrom")
	}
	switch d.discard {
	case machine.On:
		p = append(p, "discard")
	case machine.Off:
		p = append(p, "no-discard")
	}
	if d.virtio {
		add("specification", "virtio")
	}
	p = append(p, d.unknown...)
	t := d.target
	if strings.HasSuffix(t, ",") {
		t += "," // one is taken off
	}
	if t != "" || !d.cdrom {
		p = append(p, "target="+t)
	}
	return strings.Join(p, ",")
}

// A place is what a vdev names: libxl__device_disk_dev_number.
type place struct {
	bus  machine.Bus // of the name: xvd, hd, sd
	disk int
	part int // 0: the whole disk
}

// vdevPlace reads hda, sdb3, xvdaa, vda, d0p1, and the numbers that stand for them in Linux.
func vdevPlace(s string) (place, error) {
	none := func() (place, error) {
		return place{}, fmt.Errorf("vdev %q: %w", s, machine.ErrSyntax)
	}
	s = strings.TrimPrefix(s, "/dev/")
	if d, p, ok := strings.Cut(strings.TrimPrefix(s, "d"), "p"); ok && strings.HasPrefix(s, "d") {
		disk, err1 := strconv.ParseUint(d, 10, 20)
		part, err2 := strconv.ParseUint(p, 10, 8)
		if err1 != nil || err2 != nil {
			return none()
		}
		return place{machine.Xen, int(disk), int(part)}, nil
	}
	if n, err := strconv.ParseUint(s, 0, 32); err == nil {
		major, minor := n>>8, int(n&255)
		switch {
		case n>>28 == 1:
			return place{machine.Xen, int(n>>8) & 0xfffff, int(n & 255)}, nil
		case major == 3 || major == 22:
			return place{machine.IDE, minor>>6 + 2*int((major-3)/19), minor & 63}, nil
		case major == 8:
			return place{machine.SCSI, minor >> 4, minor & 15}, nil
		case major == 202:
			return place{machine.Xen, minor >> 4, minor & 15}, nil
		}
		return none()
	}
	for _, k := range []struct {
		prefix string
		bus    machine.Bus
		disks  int
		parts  uint
	}{{"xvd", machine.Xen, 1 << 20, 8}, {"hd", machine.IDE, 4, 6}, {"sd", machine.SCSI, 16, 4}, {"vd", machine.Virtio, 1 << 20, 8}} {
		rest, ok := strings.CutPrefix(s, k.prefix)
		if !ok {
			continue
		}
		n := 0
		for n < len(rest) && rest[n] >= 'a' && rest[n] <= 'z' {
			n++
		}
		at, part := letters(rest[:n]), uint64(0)
		if rest[n:] != "" {
			var err error
			if part, err = strconv.ParseUint(rest[n:], 10, int(k.parts)); err != nil || part == 0 {
				return none()
			}
		}
		if at < 0 || at >= k.disks {
			return none()
		}
		return place{k.bus, at, int(part)}, nil
	}
	return none()
}

// letters is the number of a disk: a is 0, z 25, aa 26. It is negative for what is none.
func letters(s string) int {
	if s == "" || len(s) > 5 {
		return -1
	}
	n := 0
	for _, c := range s {
		n = n*26 + int(c-'a') + 1
	}
	return n - 1
}

// deviceName is the other way round.
func deviceName(prefix string, n int) string {
	s := ""
	for n++; n > 0; n = (n - 1) / 26 {
		s = string(rune('a'+(n-1)%26)) + s
	}
	return prefix + s
}

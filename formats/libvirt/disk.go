package libvirt

import (
	"net/url"
	"strings"

	"github.com/beevik/etree"

	"tarvm/formats/machine"
)

// place is where a disk's address says that it is.
type place struct {
	bus                 machine.Bus
	controller, channel int
	target, unit        int
	named               bool // it has no address: the name of its target tells
	index               int  // of the name; -1: tells nothing
}

func (d *decoder) disks() {
	list := children(d.devices, "disk")
	places := make([]place, len(list))
	said := map[place]int{}
	for i, e := range list {
		v := d.disk(e)
		places[i] = d.place(e, &v)
		d.m.Drives = append(d.m.Drives, v)
		if p := places[i]; !p.named && p.bus != machine.USB {
			p.index = 0
			if j, twice := said[p]; twice {
				d.fail(machine.ErrSyntax, "disk", "%d and %d have one address", j+1, i+1)
			}
			said[p] = i
		}
	}
	// Drives whose address gives a unit come first; the rest takes what is left.
	taken := map[machine.Address]bool{}
	var late []int
	for i, p := range places {
		at := machine.Address{Bus: p.bus, Index: p.controller}
		switch {
		case p.named && p.index < 0, p.channel != 0 && p.bus != machine.IDE, p.target != 0 && p.unit != 0:
			late = append(late, i)
			continue
		case p.named:
			at = byName(p.bus, p.index, d.wide)
		case p.bus == machine.IDE:
			at.Unit = 2*p.channel + p.unit
		default:
			at.Unit = max(p.unit, p.target)
		}
		if taken[at] {
			late = append(late, i)
			continue
		}
		taken[at] = true
		d.m.Drives[i].At = at
	}
	next := map[machine.Address]int{}
	for _, i := range late {
		at := machine.Address{Bus: places[i].bus, Index: places[i].controller}
		for at.Unit = next[at]; taken[at]; at.Unit++ {
		}
		taken[at] = true
		next[machine.Address{Bus: at.Bus, Index: at.Index}] = at.Unit
		d.m.Drives[i].At = at
	}
	for i := range d.m.Drives {
		v := d.m.Drives[i]
		d.m.Drives[i].Origin = keep(d, v, list[i])
	}
}

// place reads the address of a disk, or what its target's name says of it.
func (d *decoder) place(e *etree.Element, v *machine.Drive) place {
	target := child(e, "target")
	dev := attr(target, "dev")
	prefix, index, ok := nameIndex(dev)
	if !ok {
		index = -1
	}
	p := place{bus: machine.Bus(attr(target, "bus")), named: true, index: index}
	if p.bus == "" {
		p.bus = busOf(v.Kind, prefix)
	}
	a := child(e, "address")
	switch kind := attr(a, "type"); {
	case kind == "drive":
		p.named = false
		p.controller, p.channel = d.number(a, "controller", 0, maxIndex), d.number(a, "bus", 0, maxIndex)
		p.target, p.unit = d.number(a, "target", 0, maxIndex), d.number(a, "unit", 0, maxIndex)
		if p.bus == machine.IDE && (p.channel > 1 || p.unit > 1) {
			d.fail(machine.ErrSyntax, "address", "bus %d, unit %d of an IDE controller", p.channel, p.unit)
		}
	case p.bus == machine.NVMe:
		var ns int
		if c, n, found := strings.Cut(strings.TrimPrefix(dev, "nvme"), "n"); found && strings.HasPrefix(dev, "nvme") {
			p.named = false
			p.controller, ns = d.parse("target dev", c, 0, maxIndex), d.parse("target dev", n, 1, maxIndex)
			p.unit = ns - 1
		}
	}
	return p
}

// disk reads all of a disk but its place.
func (d *decoder) disk(e *etree.Element) machine.Drive {
	v := machine.Drive{Kind: machine.DriveKind(attr(e, "device")), Boot: d.boot(e)}
	switch v.Kind {
	case "":
		v.Kind = machine.Disk
	case machine.Disk, machine.Optical, machine.Diskette, machine.LUN:
	default:
		d.fail(machine.ErrSyntax, "disk device", "%q", string(v.Kind))
	}
	kind := attr(e, "type")
	if src := child(e, "source"); src != nil {
		d.source(&v.Media, kind, src)
	}
	driver, target := child(e, "driver"), child(e, "target")
	v.Media.Format = translate(imageFormats, attr(driver, "type"))
	if c := attr(driver, "cache"); c != "default" {
		v.Cache = c
	}
	switch attr(driver, "discard") {
	case "unmap":
		v.Discard = machine.On
	case "ignore":
		v.Discard = machine.Off
	}
	v.ReadOnly, v.Shared, v.Transient = has(e, "readonly"), has(e, "shareable"), has(e, "transient")
	if attr(e, "snapshot") == "no" {
		v.Independent = machine.On
	}
	v.Removable = d.yes(target, "removable")
	if n := d.number(target, "rotation_rate", 0, 65535); n > 0 {
		v.SSD = machine.Is(n == 1)
	}
	switch attr(target, "tray") {
	case "open":
		v.Connected = machine.Off
	case "closed":
		v.Connected = machine.On
	}
	v.Serial = word(child(e, "serial"))
	return v
}

// source reads where content is.
func (d *decoder) source(m *machine.Media, kind string, src *etree.Element) {
	switch kind {
	case "", "file":
		m.Path = attr(src, "file")
	case "dir":
		m.Path = attr(src, "dir")
	case "block":
		if m.Host = attr(src, "dev"); m.Host == "auto detect" { // what libvirt makes of VMware's autodetect
			m.Host = "auto"
		}
	case "network":
		m.URL = networkURL(src)
	case "volume":
		m.URL = "volume://" + url.PathEscape(attr(src, "pool")) + "/" + url.PathEscape(attr(src, "volume"))
	case "nvme":
		a := child(src, "address")
		hex := func(key string, width int) string {
			s := strings.TrimPrefix(attr(a, key), "0x")
			return strings.Repeat("0", max(0, width-len(s))) + s
		}
		m.URL = "nvme://" + hex("domain", 4) + ":" + hex("bus", 2) + ":" + hex("slot", 2) + "." + hex("function", 1) + "/" + attr(src, "namespace")
	case "vhostuser":
		m.URL = "vhost-user:" + attr(src, "path")
	case "vhostvdpa":
		m.URL = "vhost-vdpa:" + attr(src, "dev")
	default:
		d.fail(machine.ErrUnsupported, "disk type", "%q", kind)
	}
}

// protocols are those of network disks.
var protocols = map[string]bool{
	"nbd": true, "iscsi": true, "rbd": true, "sheepdog": true, "gluster": true, "http": true, "https": true, "ftp": true, "ftps": true,
	"tftp": true, "ssh": true, "nfs": true, "vxhs": true,
}

// networkURL writes a source as qemu does: protocol, first host, name. rbd: has no hosts in the path.
func networkURL(src *etree.Element) string {
	u := url.URL{Scheme: attr(src, "protocol"), RawQuery: attr(src, "query")}
	host := child(src, "host")
	u.Host = attr(host, "name")
	if strings.Contains(u.Host, ":") {
		u.Host = "[" + strings.Trim(u.Host, "[]") + "]"
	}
	if port := attr(host, "port"); port != "" {
		u.Host += ":" + port
	}
	if name := attr(src, "name"); name != "" {
		u.Path = "/" + name
	}
	if t := attr(host, "transport"); t != "" && t != "tcp" {
		u.Scheme += "+" + t
		if s := attr(host, "socket"); s != "" {
			q := u.Query()
			q.Set("socket", s)
			u.RawQuery = q.Encode()
		}
	}
	return u.String()
}

// putURL writes a URL as the source of a disk and returns the disk's type; ok is false if libvirt has none for it.
func putURL(src *etree.Element, s string) (kind string, ok bool) {
	if path, found := strings.CutPrefix(s, "vhost-user:"); found {
		src.CreateAttr("type", "unix")
		src.CreateAttr("path", path)
		return "vhostuser", path != ""
	}
	if dev, found := strings.CutPrefix(s, "vhost-vdpa:"); found {
		src.CreateAttr("dev", dev)
		return "vhostvdpa", dev != ""
	}
	if rest, found := strings.CutPrefix(s, "volume://"); found {
		pool, volume, _ := strings.Cut(rest, "/")
		pool, err1 := url.PathUnescape(pool)
		volume, err2 := url.PathUnescape(volume)
		src.CreateAttr("pool", pool)
		src.CreateAttr("volume", volume)
		return "volume", err1 == nil && err2 == nil && pool != "" && volume != ""
	}
	if rest, found := strings.CutPrefix(s, "nvme://"); found {
		return "nvme", putNVMe(src, rest)
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", false
	}
	protocol, transport, _ := strings.Cut(u.Scheme, "+")
	if !protocols[protocol] || u.Opaque != "" || u.User != nil {
		return "", false
	}
	src.CreateAttr("protocol", protocol)
	setAttr(src, "name", strings.TrimPrefix(u.Path, "/"))
	if transport != "" {
		h := add(src, "host")
		h.CreateAttr("transport", transport)
		if socket := u.Query().Get("socket"); socket != "" {
			h.CreateAttr("socket", socket)
			return "network", true
		}
		setAttr(h, "name", u.Hostname())
		setAttr(h, "port", u.Port())
	} else if u.Host != "" {
		h := add(src, "host")
		h.CreateAttr("name", u.Hostname())
		setAttr(h, "port", u.Port())
	}
	setAttr(src, "query", u.RawQuery)
	return "network", true
}

// putNVMe writes what follows nvme://, as 0000:01:00.0/1: a controller of the host, and a namespace.
func putNVMe(src *etree.Element, s string) bool {
	address, ns, ok := strings.Cut(s, "/")
	parts := strings.FieldsFunc(address, func(r rune) bool { return r == ':' || r == '.' })
	if !ok || ns == "" || len(parts) != 4 {
		return false
	}
	src.CreateAttr("type", "pci")
	src.CreateAttr("managed", "yes")
	src.CreateAttr("namespace", ns)
	a := add(src, "address")
	for i, key := range []string{"domain", "bus", "slot", "function"} {
		a.CreateAttr(key, "0x"+parts[i])
	}
	return true
}

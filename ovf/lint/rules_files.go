package lint

import (
	"fmt"
	"slices"
	"strings"

	"tarvm/ovf"
)

// byName is how Xen Orchestra finds disks: packages/xo-vmdk-to-vhd/src/ova-read.js.
const byName = "source: it knows disks by the ends of their names, .vmdk and .vmdk.gz"

const formatStream = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"

func fileRules() []Rule {
	everyone := func(evidence string) []Verdict { return all(Refuses, evidence, Importers()...) }
	return []Rule{
		{
			ID: "file-missing", Text: "a file is not in the package",
			Verdicts: everyone(tried + ", of a disk's file; others are not missed but by specification"),
			check: func(v *view, found func(hit)) {
				for _, f := range v.files {
					if f.name == "" {
						h := hit{where: quote(f.Href), what: f.missing}
						if !slices.ContainsFunc(v.disks, func(d *diskElement) bool { return d.file == f }) {
							h.only = []Importer{VMware}
						}
						found(h)
					}
				}
			},
		},
		{
			ID: "file-chunks", Text: "a file comes in chunks", Fixes: true,
			Verdicts: append(all(Refuses, tried, VirtualBox, Govc), append(all(Refuses, byName, XenOrchestra), all(ReadsWrong, tried+": it takes the last chunk for the disk; reported: virt-v2v#189", VirtV2V)...)...),
			check: func(v *view, found func(hit)) {
				for _, f := range v.files {
					if f.name != "" && f.parts > 0 {
						found(hit{where: f.name, what: fmt.Sprintf("%d of them", f.parts), fix: func() { f.remove("chunkSize") }})
					}
				}
			},
		},
		{
			ID: "file-gzip-name", Text: "a compressed file has no .gz at the end of its name", Fixes: true,
			Verdicts: append(all(Refuses, tried+": it cuts a suffix off and finds none", VirtualBox), all(Refuses, byName, XenOrchestra)...),
			check: func(v *view, found func(hit)) {
				for _, f := range v.files {
					if f.gzip && ext(f.name) != ".gz" {
						found(hit{where: f.name})
					}
				}
			},
		},
		{
			ID: "file-size", Text: "the envelope gives another size of a file, or none", Fixes: true,
			Verdicts: all(Warns, spec+"; others were tried and do not look", VMware),
			check: func(v *view, found func(hit)) {
				for _, f := range v.files {
					if f.name != "" && f.Size != f.size {
						what := fmt.Sprintf("%d, it has %d bytes", f.Size, f.size)
						if f.Size < 0 {
							what = "none"
						}
						found(hit{where: f.name, what: what})
					}
				}
			},
		},
		{
			ID: "disk-kind", Text: "a disk is not a VMDK",
			Verdicts: append(all(Refuses, tried, VirtualBox), all(Refuses, "specification of vSphere's and Xen Orchestra's importers: VMDK alone", VMware, XenOrchestra)...),
			check: eachImage(func(d *diskElement, m *image) (string, bool) {
				kind := m.kind
				if kind == "" {
					kind = "raw or unknown"
				}
				// VirtualBox has optical media among the disks, and refuses those that are none.
				format, _ := attribute(d.e, "format")
				return kind, m.kind != "vmdk" && (m.kind != "iso" || !strings.EqualFold(format, ovf.FormatISO))
			}),
		},
		{
			ID: "disk-name", Text: "a disk is a VMDK whose name does not end in .vmdk", Fixes: true,
			Verdicts: all(Refuses, byName, XenOrchestra),
			check: func(v *view, found func(hit)) {
				for _, d := range v.disks {
					if m := d.image(); m != nil && m.kind == "vmdk" && ext(d.file.name) != ".vmdk" {
						found(hit{where: d.file.name, fix: func() { d.file.suffix = ".vmdk" }})
					}
				}
			},
		},
		{
			ID: "disk-not-stream", Text: "a disk is a VMDK, but not a streamOptimized one",
			Verdicts: all(Refuses, "reported: lmeve#45, mininet#564: \"Unsupported or invalid disk type\"; source: Xen Orchestra reads grain markers", VMware, XenOrchestra),
			check: eachImage(func(_ *diskElement, m *image) (string, bool) {
				return m.sub, m.kind == "vmdk" && m.sub != "streamOptimized"
			}),
		},
		{
			ID: "disk-cut", Text: "a disk is not complete",
			Verdicts: append(all(Refuses, tried+": VERR_EOF", VirtualBox), append(all(Refuses, spec, VMware, XenOrchestra), all(ReadsWrong, tried+": not noticed before the disk is read", VirtV2V, Govc)...)...),
			check:    eachImage(func(_ *diskElement, m *image) (string, bool) { return m.cut, m.cut != "" }),
		},
		{
			ID: "disk-capacity", Text: "the envelope gives another capacity of a disk than the disk has", Fixes: true,
			Verdicts: all(ReadsWrong, "reported: xen-orchestra#6824", XenOrchestra),
			check: func(v *view, found func(hit)) {
				for _, d := range v.disks {
					c, ok := d.capacity()
					if m := d.image(); ok && m != nil && m.capacity > 0 && m.capacity != c {
						found(hit{where: d.where(), what: fmt.Sprintf("%d bytes, it has %d", c, m.capacity), fix: func() {
							v.set(d.e, "capacity", fmt.Sprint(m.capacity))
							v.set(d.e, "capacityAllocationUnits", "byte")
						}})
					}
				}
			},
		},
		{
			ID: "disk-capacity-units", Text: "a disk's capacity has no units", Fixes: true,
			Verdicts: all(ReadsWrong, tried+": taken for KB; by specification it is bytes", Govc),
			check: func(v *view, found func(hit)) {
				for _, d := range v.disks {
					c, a := attribute(d.e, "capacity")
					if u, _ := attribute(d.e, "capacityAllocationUnits"); a != nil && strings.TrimSpace(u) == "" {
						found(hit{where: d.where(), what: quote(c), fix: func() { v.set(d.e, "capacityAllocationUnits", "byte") }})
					}
				}
			},
		},
		{
			ID: "disk-format", Text: "a disk's format is not named as VMware does", Fixes: true,
			Verdicts: all(Refuses, "reported: isar#106", VMware),
			check: func(v *view, found func(hit)) {
				for _, d := range v.disks {
					f, _ := attribute(d.e, "format")
					m := d.image()
					if m == nil || m.sub != "streamOptimized" || strings.HasSuffix(f, "vmdk.html#streamOptimized") {
						continue
					}
					found(hit{where: d.where(), what: quote(f), fix: func() { v.set(d.e, "format", formatStream) }})
				}
			},
		},
		{
			ID: "disk-file", Text: "a disk refers to a file that the envelope does not list",
			Verdicts: everyone(tried),
			check: func(v *view, found func(hit)) {
				for _, d := range v.disks {
					if d.href != "" && d.file == nil {
						found(hit{where: d.where(), what: quote(d.href)})
					}
				}
			},
		},
		{
			ID: "disk-parent", Text: "a disk holds only what differs from another",
			Verdicts: append(all(Refuses, "source: parentRef is not read", VirtualBox, XenOrchestra), all(ReadsWrong, "source: parentRef is not read", VirtV2V, Govc)...),
			check: func(v *view, found func(hit)) {
				for _, d := range v.disks {
					if p, _ := attribute(d.e, "parentRef"); p != "" {
						found(hit{where: d.where(), what: "parent " + quote(p)})
					}
				}
			},
		},
		{
			ID: "iso-content", Text: "there is a CD image, which is left out",
			Verdicts: append(all(Warns, "source", VirtV2V, XenOrchestra), all(Warns, tried+": it finds media among the disks alone", VirtualBox)...),
			check: func(v *view, found func(hit)) {
				for _, f := range v.files {
					if f.image == nil || f.image.kind != "iso" {
						continue
					}
					h := hit{where: f.name}
					if slices.ContainsFunc(v.disks, func(d *diskElement) bool { return d.file == f }) {
						h.only = []Importer{VirtV2V, XenOrchestra}
					}
					found(h)
				}
			},
		},
		{
			ID: "floppy-content", Text: "there is a diskette's image, which is left out",
			Verdicts: append(all(Warns, "source", VirtV2V, XenOrchestra), all(Warns, tried, VirtualBox)...),
			check: func(v *view, found func(hit)) {
				for _, i := range v.items {
					if r, _ := child(i.e, "HostResource"); i.kind == typeFloppy && r != "" {
						found(hit{where: i.where(), what: quote(r)})
					}
				}
			},
		},
	}
}

// eachImage makes a check of the images of the disks that have a file.
func eachImage(bad func(d *diskElement, m *image) (string, bool)) func(*view, func(hit)) {
	return func(v *view, found func(hit)) {
		for _, d := range v.disks {
			if m := d.image(); m != nil {
				if what, is := bad(d, m); is {
					found(hit{where: d.file.name, what: what})
				}
			}
		}
	}
}

func (d *diskElement) image() *image {
	if d.file == nil {
		return nil
	}
	return d.file.image
}

func (d *diskElement) where() string { return "Disk " + quote(d.id) }

// capacity is in bytes; false if it is a property's or has units that are not known.
func (d *diskElement) capacity() (int64, bool) {
	c, a := attribute(d.e, "capacity")
	u, _ := attribute(d.e, "capacityAllocationUnits")
	if a == nil {
		return 0, false
	}
	return scaled(c, u)
}

func (f *refFile) remove(name string) {
	if f.e == nil {
		return
	}
	if _, a := attribute(f.e, name); a != nil {
		f.e.RemoveAttr(a.FullKey())
	}
}

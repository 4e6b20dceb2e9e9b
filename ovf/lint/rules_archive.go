package lint

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"path"
	"strings"

	"tarvm/ovf"
	"tarvm/ovf/ova"
)

const (
	tried = "tried"
	spec  = "specification"
)

func archiveRules() []Rule {
	isTar := func(f func(v *view, found func(hit))) func(*view, func(hit)) {
		return func(v *view, found func(hit)) {
			if v.container == ova.Tar {
				f(v, found)
			}
		}
	}
	return []Rule{
		{
			ID: "tar-pax", Text: "the archive has PAX headers", Fixes: true,
			Verdicts: append(all(Refuses, tried+": VERR_TAR_UNSUPPORTED_PAX_TYPE", VirtualBox), all(Refuses, "reported: open-vmdk#65", VMware)...),
			check: isTar(func(v *view, found func(hit)) {
				for _, m := range v.members {
					if m.Tar.Form == "pax" {
						found(hit{where: m.Name})
						return
					}
				}
			}),
		},
		{
			ID: "tar-sparse", Text: "the archive has sparse members", Fixes: true,
			Verdicts: all(Warns, "specification: ustar has none; not tried", VMware, VirtualBox, VirtV2V, Govc, XenOrchestra),
			check: isTar(func(v *view, found func(hit)) {
				for _, m := range v.members {
					if m.Tar.Sparse {
						found(hit{where: m.Name})
					}
				}
			}),
		},
		{
			ID: "tar-trailing", Text: "there is something behind the archive's end", Fixes: true,
			Verdicts: all(Refuses, tried, VirtualBox),
			check: isTar(func(v *view, found func(hit)) {
				if v.trailing > 0 {
					found(hit{where: "archive", what: fmt.Sprintf("%d bytes", v.trailing)})
				}
			}),
		},
		{
			ID: "tar-directory", Text: "members have a directory or ./ before their names", Fixes: true,
			Verdicts: append(all(Refuses, tried, VirtualBox, VirtV2V), all(Refuses, "source: members whose names begin with a dot are skipped", XenOrchestra)...),
			check: isTar(func(v *view, found func(hit)) {
				for _, m := range v.members {
					if !strings.Contains(m.Name, "/") {
						continue
					}
					h := hit{where: m.Name}
					if m.Name[0] != '.' {
						h.only = []Importer{VirtualBox}
					}
					found(h)
					return
				}
			}),
		},
		{
			ID: "tar-order", Text: "the envelope is not the first member", Fixes: true,
			Verdicts: all(Refuses, "reported: coreos-assembler#1141, osbuild/image-builder#431: \"Did not find an .ovf file at the beginning\"", VMware),
			check: isTar(func(v *view, found func(hit)) {
				if len(v.members) > 0 && path.Base(v.members[0].Path) != v.envelope {
					found(hit{where: v.members[0].Name, what: "comes before " + quote(v.envelope)})
				}
			}),
		},
		{
			ID: "two-envelopes", Text: "there is more than one envelope", Fixes: true,
			Verdicts: all(Refuses, tried, VirtV2V),
			check: func(v *view, found func(hit)) {
				for _, m := range v.members {
					if ext(m.Path) == ".ovf" && path.Base(m.Path) != v.envelope && (v.container != ova.Directory || path.Dir(m.Path) == v.dir) {
						found(hit{where: m.Name})
					}
				}
			},
		},
		{
			ID: "name-glob", Text: "a name has characters that govc takes for wildcards", Fixes: true,
			Verdicts: all(Refuses, tried+": it takes them for a pattern", Govc),
			check:    names(func(n string) bool { return strings.ContainsAny(n, "[]*?") }),
		},
		{
			ID: "name-long", Text: "a name is longer than 100 bytes", Fixes: true,
			Verdicts: all(Refuses, "source: it reads the first name field only", XenOrchestra),
			check:    names(func(n string) bool { return len(n) > 100 }),
		},
		{
			ID: "name-dot", Text: "a name begins with a dot", Fixes: true,
			Verdicts: all(Refuses, "source: such members are skipped", XenOrchestra),
			check:    names(func(n string) bool { return path.Base(n)[0] == '.' }),
		},
		{
			ID: "name-ascii", Text: "a name has characters beyond ASCII, which need PAX headers or an encoding that nobody states", Fixes: true,
			Verdicts: all(Warns, spec, VMware, VirtualBox, VirtV2V, XenOrchestra),
			check: names(func(n string) bool {
				return strings.ContainsFunc(n, func(r rune) bool { return r > '~' || r < ' ' })
			}),
		},
	}
}

// names makes a check of the names of the envelope, the manifest and the files that are referred to.
func names(bad func(name string) bool) func(*view, func(hit)) {
	return func(v *view, found func(hit)) {
		list := []string{v.envelope}
		if v.manifest.Name != "" {
			list = append(list, v.manifest.Name)
		}
		for _, f := range v.files {
			if f.name != "" {
				list = append(list, f.name)
			}
		}
		for _, n := range list {
			if bad(n) {
				found(hit{where: quote(n)})
			}
		}
	}
}

// A line is one of the manifest as it stands there, in parts.
type line struct {
	n      int
	text   string
	algo   string // with the spaces behind it
	name   string
	sum    string // with the spaces before it
	digest ovf.Digest
	ok     bool // it can be read
}

func manifestLines(b []byte) []line {
	var list []line
	n := 0
	for raw := range bytes.Lines(b) {
		n++
		text := strings.TrimRight(string(raw), "\r\n")
		if strings.TrimSpace(text) == "" {
			continue
		}
		l := line{n: n, text: text}
		ds, err := ovf.ReadDigests(strings.NewReader(text))
		if err == nil && len(ds) == 1 {
			l.ok, l.digest, l.name = true, ds[0], ds[0].Name
			l.algo = text[:strings.IndexByte(text, '(')]
			l.sum = text[strings.LastIndexByte(text, '=')+1:]
		}
		list = append(list, l)
	}
	return list
}

func manifestRules() []Rule {
	eachLine := func(f func(v *view, l line) (string, bool), only func(l line) []Importer) func(*view, func(hit)) {
		return func(v *view, found func(hit)) {
			for _, l := range v.lines {
				if what, bad := f(v, l); bad {
					h := hit{where: fmt.Sprintf("%s line %d", v.manifest.Name, l.n), what: what}
					if only != nil {
						h.only = only(l)
					}
					found(h)
				}
			}
		}
	}
	return []Rule{
		{
			ID: "mf-syntax", Text: "a line of the manifest cannot be read", Fixes: true,
			Verdicts: append(all(Warns, tried, VirtV2V), append(all(Refuses, tried, VirtualBox), all(Refuses, spec, VMware)...)...),
			check:    eachLine(func(_ *view, l line) (string, bool) { return quote(l.text), !l.ok }, nil),
		},
		{
			ID: "mf-space", Text: "there is a space before the parenthesis of a digest line", Fixes: true,
			Verdicts: append(all(Refuses, "reported: home-assistant/operating-system#826: \"Invalid OVF checksum algorithm: SHA256 \"", VMware), all(Warns, tried+": not verified", VirtV2V)...),
			check: eachLine(func(_ *view, l line) (string, bool) {
				return quote(l.text), l.ok && strings.TrimSpace(l.algo) != l.algo
			}, nil),
		},
		{
			ID: "mf-algorithm-name", Text: "the algorithm of a digest line has not its plain name", Fixes: true,
			Verdicts: append(all(Refuses, "reported: home-assistant/operating-system#3654: \"Invalid OVF checksum algorithm: SHA2-256\"", VMware), all(Warns, tried+": not verified", VirtV2V)...),
			check: eachLine(func(_ *view, l line) (string, bool) {
				a := strings.TrimSpace(l.algo)
				return quote(a), l.ok && l.digest.Algorithm.New() != nil && a != string(l.digest.Algorithm)
			}, func(l line) []Importer {
				if strings.EqualFold(strings.TrimSpace(l.algo), string(l.digest.Algorithm)) {
					return []Importer{VirtV2V} // sha256: what VMware makes of that was not tried
				}
				return nil
			}),
		},
		{
			ID: "mf-algorithm", Text: "the digests are of an algorithm that is not verified everywhere", Fixes: true,
			Verdicts: all(Warns, tried+": not verified", VirtV2V),
			check: eachLine(func(_ *view, l line) (string, bool) {
				a := l.digest.Algorithm
				return string(a), l.ok && a != ovf.SHA1 && a != ovf.SHA256
			}, nil),
		},
		{
			ID: "mf-sha1", Text: "the digests are SHA-1, which newer versions do not take", Fixes: true,
			Verdicts: all(Warns, "reported: opencti#1642: \"Invalid OVF checksum algorithm: SHA1\"", VMware),
			check: func(v *view, found func(hit)) {
				for _, l := range v.lines {
					if l.ok && l.digest.Algorithm == ovf.SHA1 {
						found(hit{where: v.manifest.Name})
						return
					}
				}
			},
		},
		{
			ID: "mf-equals", Text: "there is not one space behind the equals sign of a digest line", Fixes: true,
			Verdicts: all(Warns, tried+": not verified", VirtV2V),
			check: eachLine(func(_ *view, l line) (string, bool) {
				return quote(l.text), l.ok && strings.TrimRight(l.sum, " \t") != " "+strings.TrimSpace(l.sum)
			}, nil),
		},
		{
			ID: "mf-upper", Text: "a digest is in capital letters", Fixes: true,
			Verdicts: all(Refuses, tried+": \"checksum mismatch\"", VirtV2V),
			check: eachLine(func(_ *view, l line) (string, bool) {
				s := strings.TrimSpace(l.sum)
				return quote(s), l.ok && s != hex.EncodeToString(l.digest.Sum) && plain(l)
			}, nil),
		},
		{
			ID: "mf-absent", Text: "the manifest has a digest of a file that is not there", Fixes: true,
			Verdicts: all(Warns, tried, VirtV2V),
			check: eachLine(func(v *view, l line) (string, bool) {
				return quote(l.name), l.ok && !v.has(l.name)
			}, nil),
		},
		{
			ID: "mf-self", Text: "the manifest has a digest of itself or of the certificate", Fixes: true,
			Verdicts: append(all(Warns, spec, VMware), all(Refuses, tried, VirtV2V)...),
			check: eachLine(func(v *view, l line) (string, bool) {
				return quote(l.name), l.ok && (l.name == v.manifest.Name || ext(l.name) == ".cert")
			}, nil),
		},
		{
			ID: "mf-missing", Text: "a file has no digest in the manifest", Fixes: true,
			Verdicts: append(all(Warns, tried+": with -m it is refused", Govc), all(Warns, "reported: sift#207: \"not found in the manifest\", of an ISO; 7.2 takes it (tried)", VirtualBox)...),
			check: func(v *view, found func(hit)) {
				if v.manifest.Name == "" {
					return
				}
				listed := make(map[string]bool)
				for _, l := range v.lines {
					listed[path.Base(l.name)] = true
				}
				for _, f := range v.files {
					if f.name == "" || listed[path.Base(f.name)] || f.parts > 0 && listed[path.Base(f.name)+".000000000"] {
						continue
					}
					h := hit{where: f.name, only: []Importer{Govc}}
					if f.image != nil && f.image.kind == "iso" {
						h.only = nil
					}
					found(h)
				}
			},
		},
		{
			ID: "mf-digest", Text: "a file does not have its digest",
			Verdicts: append(all(Refuses, tried, VirtualBox, VirtV2V), all(Refuses, spec, VMware)...),
			check: func(v *view, found func(hit)) {
				for _, d := range v.damaged {
					found(hit{where: d})
				}
			},
		},
		{
			ID: "mf-end-of-stream", Text: "there are bytes behind the end-of-stream marker of a disk, of which VMware's readers compute no digest", Fixes: true,
			Verdicts: all(Refuses, "reported: home-assistant/operating-system#2121, coreos-assembler#1156, osbuild/image-builder#431: \"SHA digest of file does not match manifest\"", VMware),
			check: func(v *view, found func(hit)) {
				for _, f := range v.files {
					if n := f.image.trailing(); n > 0 && f.image.cut == "" && v.manifest.Name != "" {
						found(hit{where: f.name, what: fmt.Sprintf("%d bytes", n)})
					}
				}
			},
		},
	}
}

// plain reports whether a line is in the form that virt-v2v verifies, but for its digits.
func plain(l line) bool {
	return (l.algo == "SHA1" || l.algo == "SHA256") && strings.HasPrefix(l.sum, " ")
}

// has reports whether a name in the manifest is that of a file.
func (v *view) has(name string) bool {
	for _, m := range v.members {
		if m.Path == name || path.Base(m.Path) == path.Base(name) {
			return true
		}
	}
	return false
}

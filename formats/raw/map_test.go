package raw_test

import (
	"encoding/json"
	"testing"

	"tarvm/formats"
)

// checkMap compares m with the output of qemu-img map --output=json.
func checkMap(t *testing.T, out []byte, m formats.Mapper) {
	t.Helper()
	var list []struct {
		Start, Length int64
		Data          bool
	}
	if err := json.Unmarshal(out, &list); err != nil || len(list) == 0 {
		t.Fatalf("%v in %s", err, out)
	}
	for _, x := range list {
		for off := x.Start; off < min(x.Start+x.Length, m.Size()); {
			e, err := m.MapAt(off)
			if err != nil {
				t.Fatal(err)
			}
			if (e.Kind == formats.Data) != x.Data {
				t.Errorf("at %d: %v, qemu-img says data: %v", off, e.Kind, x.Data)
			}
			off = e.End()
		}
	}
}

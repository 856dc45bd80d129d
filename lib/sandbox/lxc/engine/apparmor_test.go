package engine

import "testing"

// TestAppArmor takes LXC's profile only where the kernel has it.
func TestAppArmor(t *testing.T) {
	const enabled, list = "/sys/module/apparmor/parameters/enabled", "/sys/kernel/security/apparmor/profiles"
	for name, c := range map[string]struct {
		files map[string]string
		items int
	}{
		"None":     {nil, 0},
		"Off":      {map[string]string{enabled: "N\n"}, 0},
		"Empty":    {map[string]string{enabled: "Y\n", list: ""}, 1},
		"Hidden":   {map[string]string{enabled: "Y\n"}, 1},
		"Others":   {map[string]string{enabled: "Y\n", list: "my-" + profile + " (enforce)\n" + profile + "-with-nesting (enforce)\n"}, 1},
		"Loaded":   {map[string]string{enabled: "Y\n", list: "man (enforce)\n" + profile + " (enforce)\n"}, 0},
		"Complain": {map[string]string{enabled: "Y\n", list: profile + " (complain)\n"}, 0},
	} {
		if got := machine(t, c.files).apparmor(); len(got) != c.items {
			t.Errorf("%s: %v", name, got)
		}
	}
}

package oracle

import "slices"

// shrunk leaves steps out of a script as long as it still fails: first half of
// them at a time, then fewer. fails plays a script; it is asked at most tries times.
func shrunk(script Script, tries int, fails func(Script) bool) Script {
	steps := script.Steps
	for size := len(steps) / 2; size > 0 && tries > 0; {
		left := false
		for at := 0; at < len(steps) && tries > 0; {
			fewer := slices.Concat(steps[:at], steps[min(at+size, len(steps)):])
			tries--
			if len(fewer) > 0 && fails(Script{script.Flags, fewer}) {
				steps, left = fewer, true
				continue // at the same place there are others now
			}
			at += size
		}
		switch {
		case size > 1:
			size /= 2
		case !left:
			size = 0 // none of them can be left out
		}
	}
	return Script{script.Flags, steps}
}

package bustest

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
)

// PeakMemory returns the peak of the process's resident memory so far, in bytes. It returns false
// if the process has ended.
func (p *Process) PeakMemory() (size int, running bool) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Command.Process.Pid))
	line := regexp.MustCompile(`VmHWM:\s*(\d+) kB`).FindSubmatch(status)
	if line == nil {
		return 0, false
	}
	kib, _ := strconv.Atoi(string(line[1]))
	return kib << 10, true
}

package osfile

import "os"

// CreateUnnamed creates a file without a name in directory, for reading and writing. It is gone
// when the last process that has it open closes it or ends.
//
// Linux can make a file without a name. On other systems, and where the file system can't, the
// file has a name for a moment, which begins with prefix. A kill at that moment leaves it there.
func CreateUnnamed(directory, prefix string) (*os.File, error) {
	if file, err := createUnnamed(directory); err == nil {
		return file, nil
	}
	file, err := os.CreateTemp(directory, prefix)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

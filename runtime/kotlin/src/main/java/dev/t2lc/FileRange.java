// A file of a bundle inside another file.

package dev.t2lc;

/** A file of a bundle as a range of an open file, such as an AssetFileDescriptor of Android has. */
public final class FileRange {
    final byte[] name;
    final int descriptor;
    final long offset;
    final long size;

    /**
     * @param name of the file in the bundle, for example {@code encoder.onnx}
     * @param descriptor number of the open file, which may be closed once the bundle is open
     */
    public FileRange(String name, int descriptor, long offset, long size) {
        // AssetFileDescriptor has -1 for a length that it does not know.
        if (offset < 0 || size < 0) {
            throw new IllegalArgumentException(
                    name + ": " + size + " bytes from " + offset + " is no range");
        }
        this.name = T2lcNative.utf8("name", name);
        this.descriptor = descriptor;
        this.offset = offset;
        this.size = size;
    }
}

// An app's own way to the files of a bundle.

package dev.t2lc;

import java.io.IOException;

/** Reads the files of a bundle while it is opened, on the thread that opens it. */
public interface BundleReader {
    /** Size of a file in bytes, -1 if there is none. */
    long size(String name) throws IOException;

    /**
     * Fills the first {@code length} bytes of {@code into} with those of a file from {@code offset}.
     * The array may be longer and is used again.
     */
    void read(String name, long offset, byte[] into, int length) throws IOException;
}

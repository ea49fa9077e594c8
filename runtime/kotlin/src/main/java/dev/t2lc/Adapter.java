// A compiled adapter.

package dev.t2lc;

import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A compiled adapter, in native memory. {@link Compiler#compile} makes them; they do not need it any
 * more. Any thread may use one, several at once. After close, everything but {@link #bytes}, {@link
 * #files} and {@link #write} is still there.
 */
public final class Adapter implements AutoCloseable {
    private final Handle handle;
    private final List<String> names;
    private final String recipe;
    private final String content;
    private final long tokens;
    private final boolean truncated;
    private final Similarity similarity;

    /** Takes a handle. */
    Adapter(long adapter) {
        handle = new Handle(this, "adapter", adapter, T2lcNative::freeAdapter);
        int count = T2lcNative.adapterFileCount(adapter);
        List<String> names = new ArrayList<>(count);
        for (int i = 0; i < count; i++) {
            names.add(T2lcNative.text(T2lcNative.adapterFileName(adapter, i)));
        }
        this.names = names;
        recipe = T2lcNative.text(T2lcNative.adapterRecipe(adapter));
        content = T2lcNative.text(T2lcNative.adapterContent(adapter));
        tokens = T2lcNative.adapterTokens(adapter);
        truncated = T2lcNative.adapterTruncated(adapter);
        similarity = Similarity.take(T2lcNative.adapterSimilarity(adapter));
    }

    /** A copy of the GGUF file. */
    public byte[] bytes() {
        if (names.size() != 1) {
            throw new IllegalStateException("a PEFT adapter has several files: take files()");
        }
        return bytes(0);
    }

    /** Copies of the files by name, in the order that {@link #content} covers them. */
    public Map<String, byte[]> files() {
        Map<String, byte[]> files = new LinkedHashMap<>();
        for (int i = 0; i < names.size(); i++) {
            files.put(names.get(i), bytes(i));
        }
        return Collections.unmodifiableMap(files);
    }

    private byte[] bytes(int index) {
        // The bytes are the library's until they are copied: close waits.
        synchronized (handle) {
            return T2lcNative.adapterFileBytes(this, handle.value(), index);
        }
    }

    /** Digest of everything that went in, {@code sha256:…}. */
    public String recipe() {
        return recipe;
    }

    /** Digest of the bytes that came out: of the GGUF file, or of both PEFT files in order. */
    public String content() {
        return content;
    }

    /** Tokens of the description. */
    public long tokens() {
        return tokens;
    }

    /** Whether the description was longer than the encoder reads. */
    public boolean truncated() {
        return truncated;
    }

    /** The nearest training tasks. */
    public Similarity similarity() {
        return similarity;
    }

    /** Writes the GGUF file or the PEFT directory, whole or not at all, where nothing is yet. */
    public void write(String path) {
        write(path, false);
    }

    /** Writes the GGUF file or the PEFT directory, whole or not at all. */
    public void write(String path, boolean overwrite) {
        T2lcNative.adapterWrite(this, handle.value(), T2lcNative.utf8("path", path), overwrite);
    }

    /** Writes the GGUF file or the PEFT directory, whole or not at all. */
    public void write(File path, boolean overwrite) {
        write(path.getPath(), overwrite);
    }

    /** Frees the adapter. Twice is once. */
    @Override
    public void close() {
        handle.close();
    }

    @Override
    public String toString() {
        return "Adapter " + names + " " + content;
    }
}

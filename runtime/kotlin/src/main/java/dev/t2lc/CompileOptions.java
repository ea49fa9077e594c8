// What is made of a description.

package dev.t2lc;

import java.util.Objects;

/** What is made of a description. Each method changes one option and returns the same object. */
public final class CompileOptions {
    Format format = Format.GGUF;
    Quantization quantization = Quantization.DEFAULT;
    float scale = 1;
    Progress progress;

    public CompileOptions format(Format format) {
        this.format = Objects.requireNonNull(format, "format");
        return this;
    }

    public CompileOptions quantization(Quantization quantization) {
        this.quantization = Objects.requireNonNull(quantization, "quantization");
        return this;
    }

    /** Strength of the adapter: 1, the default, as trained, 0 for none. */
    public CompileOptions scale(float scale) {
        this.scale = scale;
        return this;
    }

    /** Is told how far the compile is; null, the default, for none. */
    public CompileOptions progress(Progress progress) {
        this.progress = progress;
        return this;
    }
}

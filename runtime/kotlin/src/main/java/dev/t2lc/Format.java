// The forms of an adapter, with the numbers of t2lc.h.

package dev.t2lc;

/** Form of an adapter. */
public enum Format {
    /** One GGUF file, for llama.cpp. */
    GGUF(0),
    /** The two files of a PEFT directory. */
    PEFT(1);

    final int number;

    Format(int number) {
        this.number = number;
    }
}

// The tensor types, with the numbers of t2lc.h.

package dev.t2lc;

/** Type of an adapter's tensors. PEFT has only {@link #F32}, {@link #F16} and {@link #BF16}. */
public enum Quantization {
    /** {@link #Q8_0} for GGUF, {@link #F32} for PEFT. */
    DEFAULT(0),
    F32(1),
    F16(2),
    BF16(3),
    Q8_0(4),
    Q4_0(5),
    Q4_1(6),
    Q5_0(7),
    Q5_1(8);

    final int number;

    Quantization(int number) {
        this.number = number;
    }
}

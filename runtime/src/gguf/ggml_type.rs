//! Tensor types: ids, block lengths in elements and block sizes in bytes, as ggml has them.

macro_rules! ggml_types {
    ($($variant:ident $id:literal $name:literal $block_len:literal $block_bytes:literal;)*) => {
        /// Element type of a tensor: values are stored in blocks of `block_len` elements.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum GgmlType {
            $(
                #[doc = concat!(
                    "`", $name, "`, id ", $id, ": ", $block_len, " elements in ", $block_bytes,
                    " bytes."
                )]
                $variant,
            )*
        }

        impl GgmlType {
            /// Every type, by rising id.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The type with ggml's number `id`; `None` if it is unknown or was removed.
            pub fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Id, name, elements per block, bytes per block.
            const fn row(self) -> (u32, &'static str, u64, u64) {
                match self {
                    $(Self::$variant => ($id, $name, $block_len, $block_bytes),)*
                }
            }
        }
    };
}

ggml_types! {
    F32 0 "f32" 1 4;
    F16 1 "f16" 1 2;
    Q4_0 2 "q4_0" 32 18;
    Q4_1 3 "q4_1" 32 20;
    Q5_0 6 "q5_0" 32 22;
    Q5_1 7 "q5_1" 32 24;
    Q8_0 8 "q8_0" 32 34;
    Q8_1 9 "q8_1" 32 36;
    Q2K 10 "q2_K" 256 84;
    Q3K 11 "q3_K" 256 110;
    Q4K 12 "q4_K" 256 144;
    Q5K 13 "q5_K" 256 176;
    Q6K 14 "q6_K" 256 210;
    Q8K 15 "q8_K" 256 292;
    Iq2Xxs 16 "iq2_xxs" 256 66;
    Iq2Xs 17 "iq2_xs" 256 74;
    Iq3Xxs 18 "iq3_xxs" 256 98;
    Iq1S 19 "iq1_s" 256 50;
    Iq4Nl 20 "iq4_nl" 32 18;
    Iq3S 21 "iq3_s" 256 110;
    Iq2S 22 "iq2_s" 256 82;
    Iq4Xs 23 "iq4_xs" 256 136;
    I8 24 "i8" 1 1;
    I16 25 "i16" 1 2;
    I32 26 "i32" 1 4;
    I64 27 "i64" 1 8;
    F64 28 "f64" 1 8;
    Iq1M 29 "iq1_m" 256 56;
    Bf16 30 "bf16" 1 2;
    Tq1_0 34 "tq1_0" 256 54;
    Tq2_0 35 "tq2_0" 256 66;
    Mxfp4 39 "mxfp4" 32 17;
    Nvfp4 40 "nvfp4" 64 36;
    Q1_0 41 "q1_0" 128 18;
    Q2_0 42 "q2_0" 64 18;
}

impl GgmlType {
    /// ggml's number of the type, as stored in the file.
    pub const fn id(self) -> u32 {
        self.row().0
    }

    /// ggml's name of the type, for example `q8_0`.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements per block; a row's length must be a multiple of it.
    pub const fn block_len(self) -> u64 {
        self.row().2
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> u64 {
        self.row().3
    }
}

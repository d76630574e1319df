package org.palmtop.core.text;

/** GPT-2's alphabet: every byte has a printable character that stands for it in tokenizer.json. */
final class ByteLevel {
    private static final char[] CHARACTERS = new char[256];
    private static final int[] BYTES = new int[512];

    static {
        java.util.Arrays.fill(BYTES, -1);
        int next = 256;
        for (int value = 0; value < 256; value++) {
            boolean isPrintable = value >= '!' && value <= '~' || value >= 0xa1 && value <= 0xac || value >= 0xae;
            CHARACTERS[value] = (char) (isPrintable ? value : next++);
            BYTES[CHARACTERS[value]] = value;
        }
    }

    private ByteLevel() {}

    /** The bytes that a token's text stands for, or null where it holds a character outside the alphabet. */
    static byte[] bytesOf(String token) {
        byte[] result = new byte[token.length()];
        for (int i = 0; i < result.length; i++) {
            char letter = token.charAt(i);
            int value = letter < BYTES.length ? BYTES[letter] : -1;
            if (value < 0) {
                return null;
            }
            result[i] = (byte) value;
        }
        return result;
    }

    /** The inverse of {@link #bytesOf}. */
    static String textOf(byte[] bytes) {
        StringBuilder text = new StringBuilder();
        for (byte value : bytes) {
            text.append(CHARACTERS[value & 255]);
        }
        return text.toString();
    }
}

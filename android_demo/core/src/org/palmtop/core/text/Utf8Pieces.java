package org.palmtop.core.text;

import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CodingErrorAction;

/** Sampled tokens become text as they come, never half a character; joined, the pieces are {@code decode(ids)}. */
public final class Utf8Pieces {
    private final Tokenizer tokenizer;
    private final CharsetDecoder decoder = Tokenizer.UTF_8
            .newDecoder()
            .onMalformedInput(CodingErrorAction.REPLACE)
            .onUnmappableCharacter(CodingErrorAction.REPLACE);
    private byte[] held = new byte[0];

    Utf8Pieces(Tokenizer tokenizer) {
        this.tokenizer = tokenizer;
    }

    /** The text that a token completes; empty while a character is unfinished and for special tokens. */
    public String push(int id) {
        return decode(tokenizer.visibleBytes(id), false);
    }

    /** The rest, at the end of an answer: a sequence that was never finished shows as U+FFFD. */
    public String flush() {
        return decode(new byte[0], true);
    }

    private String decode(byte[] more, boolean isEnd) {
        ByteBuffer bytes = ByteBuffer.allocate(held.length + more.length);
        bytes.put(held).put(more);
        bytes.rewind();
        CharBuffer text = CharBuffer.allocate(bytes.remaining() + 4);
        decoder.decode(bytes, text, isEnd);
        if (isEnd) {
            decoder.flush(text);
            decoder.reset();
        }
        held = new byte[bytes.remaining()];
        bytes.get(held);
        text.flip();
        return text.toString();
    }
}

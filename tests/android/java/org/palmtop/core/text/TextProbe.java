package org.palmtop.core.text;

/** The spelling of control tokens, which the prompt alone uses. */
public final class TextProbe {
    private TextProbe() {}

    /** Text from streamed pieces, and what came out at each token. */
    public static String[] pieces(Tokenizer tokenizer, int[] ids) {
        Utf8Pieces pieces = new Utf8Pieces(tokenizer);
        String[] result = new String[ids.length + 1];
        for (int i = 0; i < ids.length; i++) {
            result[i] = pieces.push(ids[i]);
        }
        result[ids.length] = pieces.flush();
        return result;
    }
}

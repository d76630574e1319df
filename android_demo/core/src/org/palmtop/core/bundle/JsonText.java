package org.palmtop.core.bundle;

/** Strings as JSON writes them, without escaping what is not ASCII. */
public final class JsonText {
    private JsonText() {}

    public static String quote(String text) {
        StringBuilder result = new StringBuilder("\"");
        for (int i = 0; i < text.length(); i++) {
            char letter = text.charAt(i);
            int place = "\"\\\b\f\n\r\t".indexOf(letter);
            if (place >= 0) {
                result.append('\\').append("\"\\bfnrt".charAt(place));
            } else if (letter < ' ') {
                result.append("\\u00").append(letter < 16 ? "0" : "").append(Integer.toHexString(letter));
            } else {
                result.append(letter);
            }
        }
        return result.append('"').toString();
    }
}

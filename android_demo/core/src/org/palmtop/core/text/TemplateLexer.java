package org.palmtop.core.text;

import java.util.ArrayList;
import java.util.List;

/** Cuts a Jinja template into tokens, with trim_blocks and lstrip_blocks on as transformers has them. */
final class TemplateLexer {
    /** Kind of a token; END closes a tag of either kind. */
    enum Type { DATA, VARIABLE, BLOCK, NAME, STRING, NUMBER, OPERATOR, END }

    /** A piece of the template. */
    static final class Token {
        final Type type;
        final String text;
        final int line;

        Token(Type type, String text, int line) {
            this.type = type;
            this.text = text;
            this.line = line;
        }

        boolean is(Type wanted, String word) {
            return type == wanted && text.equals(word);
        }
    }

    private static final String[] OPERATORS = {
        "==", "!=", "<=", ">=", "//", "**", "+", "-", "*", "/", "%", "~", "(", ")", "[", "]", "{", "}", ".", ",", ":",
        "|", "=", "<", ">"
    };

    private final String source;
    private final List<Token> tokens = new ArrayList<Token>();
    private int at;
    private boolean startsLine = true;

    private TemplateLexer(String source) {
        String lines = source.replace("\r\n", "\n").replace('\r', '\n');
        this.source = lines.endsWith("\n") ? lines.substring(0, lines.length() - 1) : lines;
    }

    static List<Token> read(String source) {
        TemplateLexer lexer = new TemplateLexer(source);
        while (lexer.at < lexer.source.length()) {
            lexer.dataAndTag();
        }
        return lexer.tokens;
    }

    private void dataAndTag() {
        int start = nextTag();
        String data = source.substring(at, start < 0 ? source.length() : start);
        if (start < 0) {
            data(data);
            at = source.length();
            return;
        }
        char kind = source.charAt(start + 1);
        char sign = start + 2 < source.length() ? source.charAt(start + 2) : ' ';
        if (sign == '-') {
            data = TemplateValues.stripEnd(data);
        } else if (kind != '{' && sign != '+') {
            int line = data.lastIndexOf('\n') + 1;
            boolean isAlone = TemplateValues.strip(data.substring(line)).isEmpty();
            if ((line > 0 || startsLine) && isAlone) {
                data = data.substring(0, line);
            }
        }
        data(data);
        at = start + 2 + (sign == '-' || (sign == '+' && kind != '{') ? 1 : 0);
        if (kind == '#') {
            int end = source.indexOf("#}", at);
            if (end < 0) {
                throw ChatTemplate.broken(line(), "Missing end of comment tag");
            }
            at = end;
            leave("#}", end > 0 ? source.charAt(end - 1) : ' ');
            return;
        }
        tokens.add(new Token(kind == '{' ? Type.VARIABLE : Type.BLOCK, "", line()));
        insideTag(kind == '{' ? "}}" : "%}");
    }

    private int nextTag() {
        for (int i = source.indexOf('{', at); i >= 0 && i + 1 < source.length(); i = source.indexOf('{', i + 1)) {
            if ("{%#".indexOf(source.charAt(i + 1)) >= 0) {
                return i;
            }
        }
        return -1;
    }

    private void insideTag(String closing) {
        int open = 0;
        while (true) {
            while (at < source.length() && Character.isWhitespace(source.charAt(at))) {
                at++;
            }
            if (at >= source.length()) {
                throw ChatTemplate.broken(line(), "unexpected end of template, expected '" + closing + "'");
            }
            char letter = source.charAt(at);
            boolean hasSign = letter == '-' || letter == '+';
            if (open == 0 && source.startsWith(closing, hasSign ? at + 1 : at)) {
                at += hasSign ? 1 : 0;
                tokens.add(new Token(Type.END, closing, line()));
                leave(closing, hasSign ? letter : ' ');
                return;
            }
            if (letter == '\'' || letter == '"') {
                string(letter);
            } else if (Character.isJavaIdentifierStart(letter)) {
                int end = at;
                while (end < source.length() && Character.isJavaIdentifierPart(source.charAt(end))) {
                    end++;
                }
                token(Type.NAME, end);
            } else if (letter >= '0' && letter <= '9') {
                int end = at;
                while (end < source.length() && source.charAt(end) >= '0' && source.charAt(end) <= '9') {
                    end++;
                }
                token(Type.NUMBER, end);
            } else {
                String operator = operator();
                open += "([{".contains(operator) ? 1 : ")]}".contains(operator) ? -1 : 0;
                token(Type.OPERATOR, at + operator.length());
            }
        }
    }

    private String operator() {
        for (String operator : OPERATORS) {
            if (source.startsWith(operator, at)) {
                return operator;
            }
        }
        throw ChatTemplate.broken(line(), "unexpected char '" + source.charAt(at) + "'");
    }

    private void string(char quote) {
        StringBuilder text = new StringBuilder();
        int line = line();
        for (at++; at < source.length() && source.charAt(at) != quote; at++) {
            char letter = source.charAt(at);
            if (letter == '\\' && at + 1 < source.length()) {
                int place = "ntr\\'\"".indexOf(source.charAt(++at));
                if (place < 0) {
                    throw ChatTemplate.cannot(line, "the escape \\" + source.charAt(at));
                }
                letter = "\n\t\r\\'\"".charAt(place);
            }
            text.append(letter);
        }
        at++;
        tokens.add(new Token(Type.STRING, text.toString(), line));
    }

    /** Behind a tag: what its sign or trim_blocks swallows. */
    private void leave(String closing, char sign) {
        at += 2;
        int from = at;
        if (sign == '-') {
            while (at < source.length() && TemplateValues.isBlank(source.charAt(at))) {
                at++;
            }
        } else if (!closing.equals("}}") && sign != '+' && source.startsWith("\n", at)) {
            at++;
        }
        startsLine = at > from && source.charAt(at - 1) == '\n';
    }

    private void data(String text) {
        if (!text.isEmpty()) {
            tokens.add(new Token(Type.DATA, text, line()));
        }
    }

    private void token(Type type, int end) {
        tokens.add(new Token(type, source.substring(at, end), line()));
        at = end;
    }

    private int line() {
        int lines = 1;
        for (int i = 0; i < at && i < source.length(); i++) {
            lines += source.charAt(i) == '\n' ? 1 : 0;
        }
        return lines;
    }
}

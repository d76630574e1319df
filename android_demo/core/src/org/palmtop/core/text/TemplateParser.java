package org.palmtop.core.text;

import java.util.ArrayList;
import java.util.List;
import org.palmtop.core.text.TemplateLexer.Token;
import org.palmtop.core.text.TemplateLexer.Type;

/** Expressions of a template, by Jinja's precedence; what the phone does not know is refused here, when a bundle opens. */
final class TemplateParser {
    private static final String COMPARISONS = " == != < > <= >= ";

    private final List<Token> tokens;
    private int at;
    /** Every text literal. */
    final List<String> literals = new ArrayList<String>();

    TemplateParser(List<Token> tokens) {
        this.tokens = tokens;
    }

    boolean isAtEnd() {
        return at >= tokens.size();
    }

    Token peek() {
        if (isAtEnd()) {
            int line = tokens.isEmpty() ? 1 : tokens.get(tokens.size() - 1).line;
            throw ChatTemplate.broken(line, "Unexpected end of template");
        }
        return tokens.get(at);
    }

    Token take() {
        Token token = peek();
        at++;
        return token;
    }

    boolean accept(Type type, String text) {
        if (!isAtEnd() && peek().is(type, text)) {
            at++;
            return true;
        }
        return false;
    }

    void expect(Type type, String text) {
        Token found = take();
        if (!found.is(type, text)) {
            throw ChatTemplate.cannot(found.line, "'" + found.text + "' where '" + text + "' was expected");
        }
    }

    /** The end of a tag. */
    void end() {
        Token found = take();
        if (found.type != Type.END) {
            throw ChatTemplate.cannot(found.line, "'" + found.text + "' at the end of a tag");
        }
    }

    TemplateExpression expression() {
        TemplateExpression yes = or();
        if (!accept(Type.NAME, "if")) {
            return yes;
        }
        TemplateExpression condition = or();
        TemplateExpression no =
                accept(Type.NAME, "else") ? expression() : TemplateExpression.constant(TemplateValues.UNDEFINED);
        return TemplateExpression.choice(condition, yes, no);
    }

    /** An expression without {@code if}, which behind a for's list would choose elements. */
    TemplateExpression unconditional() {
        return or();
    }

    private TemplateExpression or() {
        TemplateExpression left = and();
        while (accept(Type.NAME, "or")) {
            left = TemplateExpression.binary("or", left, and());
        }
        return left;
    }

    private TemplateExpression and() {
        TemplateExpression left = not();
        while (accept(Type.NAME, "and")) {
            left = TemplateExpression.binary("and", left, not());
        }
        return left;
    }

    private TemplateExpression not() {
        return accept(Type.NAME, "not") ? TemplateExpression.not(not()) : comparison();
    }

    private TemplateExpression comparison() {
        TemplateExpression left = sum();
        int operators = 0;
        while (true) {
            String operator = comparisonOperator();
            if (operator == null) {
                return left;
            }
            if (operators++ > 0) {
                throw ChatTemplate.cannot(peek().line, "a chain of comparisons");
            }
            left = TemplateExpression.binary(operator, left, sum());
        }
    }

    private String comparisonOperator() {
        Token token = peek();
        if (token.type == Type.OPERATOR && COMPARISONS.contains(" " + token.text + " ")) {
            return take().text;
        }
        if (accept(Type.NAME, "in")) {
            return "in";
        }
        if (token.is(Type.NAME, "not")) {
            take();
            expect(Type.NAME, "in");
            return "not in";
        }
        return null;
    }

    private TemplateExpression sum() {
        TemplateExpression left = concatenation();
        while (peek().is(Type.OPERATOR, "+") || peek().is(Type.OPERATOR, "-")) {
            left = TemplateExpression.binary(take().text, left, concatenation());
        }
        return left;
    }

    private TemplateExpression concatenation() {
        TemplateExpression left = product();
        while (accept(Type.OPERATOR, "~")) {
            left = TemplateExpression.binary("~", left, product());
        }
        return left;
    }

    private TemplateExpression product() {
        TemplateExpression left = unary();
        while (accept(Type.OPERATOR, "%")) {
            left = TemplateExpression.binary("%", left, unary());
        }
        return left;
    }

    private TemplateExpression unary() {
        if (accept(Type.OPERATOR, "-")) {
            return TemplateExpression.binary("-", TemplateExpression.constant(0L), unary());
        }
        TemplateExpression inner = postfix(primary());
        while (true) {
            if (accept(Type.OPERATOR, "|")) {
                Token name = take();
                inner = known(TemplateExpression.function(name.text, inner, false), "the filter ", name);
                if (accept(Type.OPERATOR, "(")) {
                    throw ChatTemplate.cannot(name.line, "arguments of the filter " + name.text);
                }
                inner = postfix(inner);
            } else if (accept(Type.NAME, "is")) {
                boolean isNegated = accept(Type.NAME, "not");
                Token name = take();
                inner = known(TemplateExpression.test(name.text, inner), "the test ", name);
                inner = isNegated ? TemplateExpression.not(inner) : inner;
            } else {
                return inner;
            }
        }
    }

    private TemplateExpression postfix(TemplateExpression start) {
        TemplateExpression inner = start;
        while (true) {
            if (accept(Type.OPERATOR, ".")) {
                Token name = take();
                if (name.type != Type.NAME) {
                    throw ChatTemplate.cannot(name.line, "'." + name.text + "'");
                }
                if (accept(Type.OPERATOR, "(")) {
                    inner = known(TemplateExpression.function(name.text, inner, true), "the method ", name);
                    expect(Type.OPERATOR, ")");
                } else {
                    inner = TemplateExpression.item(inner, TemplateExpression.constant(name.text));
                }
            } else if (accept(Type.OPERATOR, "[")) {
                inner = subscript(inner);
            } else if (peek().is(Type.OPERATOR, "(")) {
                throw ChatTemplate.cannot(peek().line, "a call");
            } else {
                return inner;
            }
        }
    }

    private TemplateExpression subscript(TemplateExpression container) {
        TemplateExpression start = peek().is(Type.OPERATOR, ":") ? null : expression();
        if (!accept(Type.OPERATOR, ":")) {
            expect(Type.OPERATOR, "]");
            return TemplateExpression.item(container, start);
        }
        TemplateExpression stop = peek().is(Type.OPERATOR, "]") ? null : expression();
        expect(Type.OPERATOR, "]");
        return TemplateExpression.slice(container, start, stop);
    }

    private TemplateExpression primary() {
        Token token = take();
        switch (token.type) {
            case STRING:
                StringBuilder text = new StringBuilder(token.text);
                while (peek().type == Type.STRING) { // neighbours are joined
                    text.append(take().text);
                }
                literals.add(text.toString());
                return TemplateExpression.constant(text.toString());
            case NUMBER:
                return TemplateExpression.constant(Long.parseLong(token.text));
            case NAME:
                return named(token);
            default:
                if (!token.is(Type.OPERATOR, "(")) {
                    throw ChatTemplate.cannot(token.line, "'" + token.text + "' in an expression");
                }
                TemplateExpression inner = expression();
                expect(Type.OPERATOR, ")");
                return inner;
        }
    }

    private TemplateExpression named(Token token) {
        switch (token.text) {
            case "true":
            case "True":
                return TemplateExpression.constant(true);
            case "false":
            case "False":
                return TemplateExpression.constant(false);
            case "none":
            case "None":
                return TemplateExpression.constant(null);
            case "raise_exception":
                expect(Type.OPERATOR, "(");
                TemplateExpression message = expression();
                expect(Type.OPERATOR, ")");
                return TemplateExpression.refusal(message);
            default:
                if (peek().is(Type.OPERATOR, "(")) {
                    throw ChatTemplate.cannot(token.line, "the function " + token.text);
                }
                return TemplateExpression.name(token.text);
        }
    }

    private static TemplateExpression known(TemplateExpression expression, String kind, Token name) {
        if (expression == null) {
            throw ChatTemplate.cannot(name.line, kind + name.text);
        }
        return expression;
    }
}

package org.palmtop.core.text;

import java.util.List;
import java.util.Map;

/** A parsed expression of a template. */
abstract class TemplateExpression {
    abstract Object value(Map<String, Object> names);

    /** A literal. */
    static TemplateExpression constant(final Object value) {
        return new TemplateExpression() {
            @Override
            Object value(Map<String, Object> names) {
                return value;
            }
        };
    }

    static TemplateExpression name(final String name) {
        return new TemplateExpression() {
            @Override
            Object value(Map<String, Object> names) {
                return names.containsKey(name) ? names.get(name) : TemplateValues.UNDEFINED;
            }
        };
    }

    /** An operator between two values; {@code and} and {@code or} do not ask the second needlessly. */
    static TemplateExpression binary(
            final String operator, final TemplateExpression left, final TemplateExpression right) {
        return new TemplateExpression() {
            @Override
            Object value(Map<String, Object> names) {
                Object first = left.value(names);
                if (operator.equals("and") || operator.equals("or")) {
                    return TemplateValues.isTrue(first) == operator.equals("or") ? first : right.value(names);
                }
                return apply(operator, first, right.value(names));
            }
        };
    }

    private static Object apply(String operator, Object left, Object right) {
        switch (operator) {
            case "==":
                return TemplateValues.isEqual(left, right);
            case "!=":
                return !TemplateValues.isEqual(left, right);
            case "<":
                return TemplateValues.compare(left, right) < 0;
            case ">":
                return TemplateValues.compare(left, right) > 0;
            case "<=":
                return TemplateValues.compare(left, right) <= 0;
            case ">=":
                return TemplateValues.compare(left, right) >= 0;
            case "in":
                return TemplateValues.contains(right, left);
            case "not in":
                return !TemplateValues.contains(right, left);
            case "+":
                return TemplateValues.add(left, right);
            case "~":
                return TemplateValues.show(left) + TemplateValues.show(right);
            case "-":
                return TemplateValues.number(left) - TemplateValues.number(right);
            case "%":
                if (TemplateValues.number(right) == 0) {
                    throw new TemplateValues.ValueException("integer modulo by zero");
                }
                long divisor = TemplateValues.number(right); // Math.floorMod is younger than the API compiled against
                return ((TemplateValues.number(left) % divisor) + divisor) % divisor;
            default:
                throw new AssertionError(operator); // the parser makes no others
        }
    }

    static TemplateExpression not(final TemplateExpression inner) {
        return new TemplateExpression() {
            @Override
            Object value(Map<String, Object> names) {
                return !TemplateValues.isTrue(inner.value(names));
            }
        };
    }

    /** {@code yes if condition else no}. */
    static TemplateExpression choice(
            final TemplateExpression condition, final TemplateExpression yes, final TemplateExpression no) {
        return new TemplateExpression() {
            @Override
            Object value(Map<String, Object> names) {
                return (TemplateValues.isTrue(condition.value(names)) ? yes : no).value(names);
            }
        };
    }

    static TemplateExpression item(final TemplateExpression container, final TemplateExpression key) {
        return new TemplateExpression() {
            @Override
            Object value(Map<String, Object> names) {
                return TemplateValues.item(container.value(names), key.value(names));
            }
        };
    }

    /** {@code container[start:stop]}; either end may be null. */
    static TemplateExpression slice(
            final TemplateExpression container, final TemplateExpression start, final TemplateExpression stop) {
        return new TemplateExpression() {
            @Override
            Object value(Map<String, Object> names) {
                Long first = start == null ? null : (Long) TemplateValues.number(start.value(names));
                Long last = stop == null ? null : (Long) TemplateValues.number(stop.value(names));
                return TemplateValues.slice(container.value(names), first, last, false);
            }
        };
    }

    /** A filter or method of a value; null if the phone does not know it. */
    static TemplateExpression function(final String name, final TemplateExpression inner, final boolean isMethod) {
        if (!(isMethod ? METHODS : FILTERS).contains(" " + name + " ")) {
            return null;
        }
        return new TemplateExpression() {
            @Override
            Object value(Map<String, Object> names) {
                Object value = inner.value(names);
                if (name.equals("length") || name.equals("count")) {
                    return TemplateValues.length(value);
                }
                if (name.equals("tojson")) {
                    throw ChatTemplate.cannot(0, "the filter tojson");
                }
                if (isMethod && !(value instanceof String)) {
                    throw new TemplateValues.ValueException("found no text to " + name);
                }
                String text = TemplateValues.show(value);
                switch (name) {
                    case "lower":
                        return text.toLowerCase(java.util.Locale.ROOT);
                    case "upper":
                        return text.toUpperCase(java.util.Locale.ROOT);
                    case "rstrip":
                        return TemplateValues.stripEnd(text);
                    default:
                        return TemplateValues.strip(text);
                }
            }
        };
    }

    private static final String METHODS = " strip rstrip lower upper ";
    private static final String FILTERS = " trim length count lower upper tojson ";

    /** {@code value is name}; null if the phone does not know the test. */
    static TemplateExpression test(final String name, final TemplateExpression inner) {
        if (!" defined undefined none string mapping sequence iterable true false ".contains(" " + name + " ")) {
            return null;
        }
        return new TemplateExpression() {
            @Override
            Object value(Map<String, Object> names) {
                Object value = inner.value(names);
                switch (name) {
                    case "defined":
                        return value != TemplateValues.UNDEFINED;
                    case "undefined":
                        return value == TemplateValues.UNDEFINED;
                    case "none":
                        return value == null;
                    case "string":
                        return value instanceof String;
                    case "mapping":
                        return value instanceof Map;
                    case "true":
                    case "false":
                        return value instanceof Boolean && (Boolean) value == name.equals("true");
                    default:
                        return value instanceof String || value instanceof Map || value instanceof List
                                || value == TemplateValues.UNDEFINED;
                }
            }
        };
    }

    /** {@code raise_exception(message)}. */
    static TemplateExpression refusal(final TemplateExpression message) {
        return new TemplateExpression() {
            @Override
            Object value(Map<String, Object> names) {
                throw new TemplateValues.ValueException(TemplateValues.show(message.value(names)));
            }
        };
    }
}
